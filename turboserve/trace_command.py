"""`turboserve trace …`: traces of users for the simulator and for replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from turboserve.client_command import json_option
from turboserve.errors import InvalidRequest
from turboserve.finite import Finite

if TYPE_CHECKING:
    from bench.traces.events import Event

T = TypeVar("T")

_SHAPES = ("bursts", "wave", "steady", "spikes", "heavy", "long")
_output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    required=True,
    help="File to write.",
)
_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group(short_help="Make, check and convert traces of users.")
def trace() -> None:
    """Make, check and convert traces: JSON Lines saying who arrives, acts, pauses and leaves, and when."""


@trace.command(short_help="A made-up day of a given shape, the same for the same seed.")
@click.option("--shape", type=click.Choice(_SHAPES), default="bursts", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--scale",
    type=Finite(0, 1000, min_open=True),
    default=1.0,
    show_default=True,
    help="Times as many sessions.",
)
@click.option("--duration-s", type=Finite(0, min_open=True), help="Cut it short. [the shape's own length]")
@_output
def make(shape: str, seed: int, scale: float, duration_s: float | None, output: Path) -> None:
    """Write a made-up trace."""
    from bench.traces import files
    from bench.traces.generate import generate

    events = generate(shape, seed, scale, duration_s)
    if not events:
        raise InvalidRequest(
            "invalid_field", "nobody arrives in so short a trace", "raise --duration-s or --scale"
        )
    click.echo(f"{output}: {files.write(events, output)} events")


@trace.command(short_help="Whether a trace can be, and what it asks for.")
@click.argument("file", type=_file)
@json_option
def check(file: Path, *, as_json: bool) -> None:
    """Say what FILE asks for, or which line of it is wrong."""
    from bench.traces.statistics import summary

    told = summary(read_trace(file))
    click.echo(json.dumps(told) if as_json else "\n".join(_lines(told)))


@trace.command(short_help="Read a public trace of another service as one of sessions.")
@click.argument("file", type=_file)
@click.option("--from", "source", type=click.Choice(("azure", "mooncake")), required=True)
@click.option(
    "--s-per-token",
    type=Finite(0, min_open=True),
    default=0.05,
    show_default=True,
    help="How long a user acts for each generated token.",
)
@_output
def convert(file: Path, source: str, s_per_token: float, output: Path) -> None:
    """Turn Azure's LLM inference trace (CSV) or Mooncake's (JSON Lines) into one of sessions."""
    from bench.traces import adapters, files

    adapter = {"azure": adapters.azure, "mooncake": adapters.mooncake}[source]
    events = in_words(file, lambda: adapter(file, s_per_token))
    click.echo(f"{output}: {in_words(file, lambda: files.write(events, output))} events")


def read_trace(file: Path) -> list[Event]:
    """Raises InvalidRequest with the line that is wrong."""
    from bench.traces import files

    return in_words(file, lambda: files.read(file))


def in_words(file: Path, work: Callable[[], T]) -> T:
    from bench.traces.events import TraceError

    try:
        return work()
    except TraceError as error:
        raise InvalidRequest(
            "invalid_trace", f"{file}, {error}", "turboserve trace make writes valid ones"
        ) from None
    except OSError as error:
        raise InvalidRequest("invalid_trace", f"{file}: {error.strerror}") from None


def _lines(told: dict[str, Any]) -> list[str]:
    spread = "mean {mean} s, median {median} s, CV {cv}"
    return [
        f"{told['sessions']} sessions in {told['duration_s']:g} s",
        f"at most {told['peak_active']} active and {told['peak_retained']} there at once",
        *(
            f"{name} spells: {spread.format(**told[key])}"
            for name, key in (("active", "active_s"), ("idle", "idle_s"))
            if told[key]
        ),
    ]
