"""`turboserve model check PATH`: what a checkpoint is, and whether it can be served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from turboserve.errors import InvalidRequest
from turboserve.phases import print_json, size

if TYPE_CHECKING:
    from services.worker.models.wan.check import Report
    from services.worker.models.wan.config import Architecture
    from services.worker.models.wan.estimate import Estimate

_NAMES_SHOWN = 3


@click.command(short_help="Whether a checkpoint fits a model; exits with 1 if it doesn't.")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--model", "name", default="", help="The model it is meant for. [any it may fit]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(path: Path, name: str, as_json: bool) -> None:
    """Look whether the weights at PATH, a file or a folder, can be served: what each file is, what is
    missing, unknown, of another shape, not a number or cut off, and what serving it would take.

    Takes .safetensors (also in shards, by their index), .pt and .pth files. Nothing in a file is executed,
    and none is loaded whole. A file is good if it fits by itself; a folder needs all that a worker needs: a
    transformer and a decoder.

    \b
      turboserve model check checkpoints/self_forcing_dmd.pt
      turboserve model check weights/ --model wan2.1-t2v-14b
    """
    preset = _preset(name)
    from services.worker.models import WeightsError
    from services.worker.models.wan import check as checking

    console = Console()
    try:
        with console.status(f"reading {path}", spinner="dots"):
            reports = checking.check(path, preset)
    except WeightsError as error:
        raise InvalidRequest("invalid_field", str(error)) from None
    lacking = checking.lacks(reports) if path.is_dir() else []
    estimate = _estimate(reports)
    if as_json:
        told = {"files": [asdict(report) for report in reports], "lacking": lacking}
        print_json(told | {"estimate": asdict(estimate) if estimate else None}, console)
    else:
        _show(console, reports, lacking, estimate)
    if lacking or not all(_passes(report, path) for report in reports):
        raise SystemExit(1)


def _preset(name: str) -> Architecture | None:
    """Raises `InvalidRequest`, in words."""
    try:
        from services.worker.models import MODELS
        from services.worker.models.wan.config import ARCHITECTURES
    except ImportError as error:
        raise InvalidRequest("not_installed", str(error), "pip install 'turboserve[worker]'") from None
    if name and name not in ARCHITECTURES:
        what = "brings its own weights" if name in MODELS else "is unknown"
        known = ", ".join(ARCHITECTURES)
        raise click.BadParameter(
            f"{name!r} {what}; checkpoints are checked for {known}", param_hint="--model"
        )
    return ARCHITECTURES.get(name)


def _estimate(reports: Sequence[Report]) -> Estimate | None:
    """Of the model whose transformer is among the files."""
    from services.worker.models.wan.config import ARCHITECTURES
    from services.worker.models.wan.estimate import estimate

    found = [report for report in reports if report.kind == "transformer" and report.architecture]
    if not found:
        return None
    kinds = {report.kind for report in reports}
    return estimate(
        ARCHITECTURES[found[0].architecture],
        low_rank="lora" in kinds,
        small_decoder="taehv" in kinds or "vae" not in kinds,
    )


def _passes(report: Report, path: Path) -> bool:
    """A folder may hold files that have nothing to do with the model."""
    return report.fits or (path.is_dir() and report.kind == "unknown")


def _show(
    console: Console, reports: Sequence[Report], lacking: Sequence[str], estimate: Estimate | None
) -> None:
    for report in reports:
        console.print(Text(Path(report.path).name, "bold"), _verdict(report))
        for line in (*_described(report), *_problems(report)):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    for line in lacking:
        console.print(Text(f"the folder can't be served from: {line}", "red"), soft_wrap=True)
    if estimate:
        _show_estimate(console, estimate)


def _verdict(report: Report) -> Text:
    if report.kind == "unknown":
        return Text("unknown", "yellow")
    return Text("fits", "green") if report.fits else Text("DOESN'T FIT", "red")


def _described(report: Report) -> list[str]:
    if report.kind == "unreadable":
        return []
    what = f"{report.kind} of {report.architecture}" if report.architecture else report.kind
    layout = ", named as diffusers does" if report.layout == "diffusers" else ""
    numbers = f"{report.parameters:,} numbers in {', '.join(report.dtypes)}, {size(report.size_bytes)}"
    return [f"{what}{layout}: {numbers}"]


def _problems(report: Report) -> list[str]:
    named = (
        ("missing", report.missing),
        ("unknown", report.unknown),
        ("of another shape", report.reshaped),
        ("with NaN or infinity", report.spoilt),
    )
    return [*report.other, *(f"{len(names)} {what}: {_some(names)}" for what, names in named if names)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _show_estimate(console: Console, estimate: Estimate) -> None:
    how = f"stepped as {estimate.recipe} is (window of {estimate.window_frames} latent frames)"
    lines = (
        f"To serve it at {estimate.width}×{estimate.height} in bfloat16, {how},",
        f"with the {estimate.decoder} decoder:",
        f"  weights              {size(estimate.weights_bytes):>10}",
        f"  a forward's work     {size(estimate.workspace_bytes):>10}",
        f"  a session's state    {size(estimate.state_bytes):>10}",
        f"  sessions on 80 GB    {estimate.sessions:>10}",
    )
    console.print("\n" + "\n".join(lines), highlight=False, soft_wrap=True)
