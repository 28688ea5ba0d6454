"""`turboserve model …`: for those who bring a model, or its weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turboserve.errors import InvalidRequest
from turboserve.model_check_command import check

if TYPE_CHECKING:
    from services.worker.models.conformance import Result
    from services.worker.models.protocol import SessionModel


@click.group(short_help="Try out a model, or check its weights, before a worker serves it.")
def model() -> None:
    """Try out a model, or look at its weights, before a worker serves it."""


model.add_command(check)


@model.command(short_help="Whether a model keeps the protocol's promises; exits with 1 if it doesn't.")
@click.argument("name", metavar="[MODEL]", default="sprites")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto: a GPU if any.")
@click.option("--weights", default="", metavar="PATH", help="Weights file. [the shipped one]")
@click.option(
    "--loader",
    default="services.worker.models",
    show_default=True,
    metavar="MODULE",
    help="Module whose load_model(name, device=, weights_path=) brings the model.",
)
@click.option(
    "--chunks",
    type=click.IntRange(1, 100_000),
    default=8,
    show_default=True,
    help="How far past its window one session is played.",
)
def test(name: str, device: str, weights: str, loader: str, chunks: int) -> None:
    """Try whether MODEL [sprites] keeps the promises of SessionModel: batched = alone, moved = stayed,
    nothing leaks from one session to another, sizes are true, prompts show when they should, nothing grows.

    \b
      turboserve model test
      turboserve model test mine --loader my_package.models --device cuda
    """
    loaded, device = _load(loader, name, device, weights)
    from services.worker.models import conformance

    console = Console()
    with console.status(f"trying {name} on {device}", spinner="dots"):
        results = list(conformance.check(loaded, device, chunks))
    sys.exit(_show(console, name, device, results))


def _load(loader: str, name: str, device: str, weights: str) -> tuple[SessionModel, str]:
    """The model and its device. Raises `InvalidRequest`, in words."""
    try:
        from services.worker import runner
        from services.worker.models import UnknownModel, WeightsError
    except ImportError as error:
        raise InvalidRequest("not_installed", str(error), "pip install 'turboserve[worker]'") from None
    sys.path.insert(0, "")
    try:
        loaded = runner.load(loader, name, device, weights)
    except (UnknownModel, WeightsError, runner.NoSuchDevice) as error:
        raise InvalidRequest("invalid_field", str(error)) from None
    except (ImportError, AttributeError) as error:
        hint = "give an importable module that has load_model(name, device=, weights_path=)"
        raise InvalidRequest("invalid_field", f"--loader {loader}: {error}", hint) from None
    return loaded.model, loaded.device


def _show(console: Console, name: str, device: str, results: Iterable[Result]) -> int:
    """The exit code."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "measured", "right is"):
        table.add_column(title, overflow="fold")
    wrong = 0
    for result in results:
        wrong += not result.passed
        table.add_row(
            _mark(passed=result.passed), *map(Text, (result.name, result.measured, result.tolerance))
        )
    console.print(table)
    _sum_up(console, f"{name} on {device}", wrong, table.row_count)
    return 1 if wrong else 0


def _mark(*, passed: bool) -> Text:
    return Text("ok", "green") if passed else Text("FAILED", "red")


def _sum_up(console: Console, what: str, wrong: int, count: int) -> None:
    verdict = f"{wrong} of {count} checks failed" if wrong else f"all {count} checks passed"
    console.print(f"\n{what}: {verdict}", highlight=False, style="red" if wrong else "green")
