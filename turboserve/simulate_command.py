"""`turboserve simulate`: what a policy makes of a trace, without a fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from turboserve.client_command import json_option
from turboserve.errors import InvalidRequest
from turboserve.finite import Finite
from turboserve.progress import progress
from turboserve.trace_command import read_trace

_Positive = Finite(0, min_open=True)


@click.command(short_help="What a policy makes of a trace, without a fleet.")
@click.option(
    "--trace",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Trace of users; turboserve trace make writes one.",
)
@click.option(
    "--policy",
    default="turboserve",
    show_default=True,
    help="fixed-rr, fixed-ll, ll-resume, memory-greedy, hpa, paper or turboserve.",
)
@click.option(
    "--profile",
    default="h100-1.3b",
    show_default=True,
    help="How quick: h100-1.3b, h100-1.3b-fast, sprites-cpu or paper.",
)
@click.option(
    "--boot-s", type=Finite(0), default=30.0, show_default=True, help="Time a worker takes to boot."
)
@click.option(
    "--boot-fail-ratio",
    type=Finite(0, 1),
    default=0.0,
    show_default=True,
    help="Share of boots that fail.",
)
@click.option("--min-gpus", type=click.IntRange(0), default=1, show_default=True, help="Fewest GPUs to keep.")
@click.option(
    "--max-gpus", type=click.IntRange(1), help="[fixed fleets: what the peak takes; others: twice that]"
)
@click.option(
    "--node-size",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="GPUs that are only sold together.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="The same seed gives the same result.",
)
@click.option("--latency-target-ms", type=_Positive, help="[the profile's]")
@click.option(
    "--floor-rung-weight",
    type=Finite(0, 1, min_open=True),
    help="What a session takes of a worker one step down. [nobody steps down]",
)
@click.option(
    "--set", "given", multiple=True, metavar="NAME=VALUE", help="A setting of the policy: --set rho=0.8"
)
@json_option
def simulate(
    file: Path, latency_target_ms: float | None, given: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Play a trace against a policy, chunk by chunk, without a fleet; the same policies run in the live
    services.

    \b
      turboserve trace make --shape bursts -o bursts.jsonl
      turboserve simulate --trace bursts.jsonl --policy paper --set rho=0.8 --json
    """
    from bench.sim.simulate import Impossible, Options, simulate

    events = read_trace(file)
    target_s = None if latency_target_ms is None else latency_target_ms / 1000.0
    try:
        asked = Options(**options, latency_target_s=target_s, settings=dict(map(_setting, given)))
        with progress("simulating") as tell:
            told = simulate(events, asked, None if tell is None else lambda share: tell(share, ""))
    except Impossible as error:
        raise InvalidRequest("invalid_field", str(error)) from None
    click.echo(json.dumps(told) if as_json else "\n".join(lines(told)))


def _setting(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise InvalidRequest("invalid_field", f"--set {word}: write NAME=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def lines(told: dict[str, Any]) -> list[str]:
    width = max(map(len, told))
    return [f"{name:{width}}  {_shown(value)}" for name, value in told.items() if value is not None]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return "  ".join(f"{name} {_shown(part)}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
