"""`turboserve replay`: a trace on a running turboserve, with simulated viewers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from turboserve.client_command import json_option, run_client, url_option
from turboserve.finite import Finite
from turboserve.progress import progress
from turboserve.simulate_command import lines
from turboserve.trace_command import read_trace

if TYPE_CHECKING:
    from rich.console import Console

    from bench.live.house import House

_Positive = Finite(0, min_open=True)


@click.command(short_help="Play a trace on a running turboserve, with simulated viewers.")
@click.option(
    "--trace",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trace of users. [a small one of five minutes that comes along]",
)
@click.option(
    "--speed",
    type=_Positive,
    default=1.0,
    show_default=True,
    help="The users do everything so many times as quickly; video plays in real time.",
)
@click.option("--latency-target-ms", type=_Positive, help="What capacity means. [the chunk's duration]")
@json_option
@url_option
def replay(
    url: str | None, file: Path | None, speed: float, latency_target_ms: float | None, as_json: bool
) -> None:
    """Play a trace on a running turboserve: each session has a viewer, which watches in real time, pauses,
    comes back and leaves as the trace says. Prints what they saw and what it cost, as turboserve simulate
    does; the page shows the fleet meanwhile.

    Not known from outside, and null: decision_ms; policy where no autoscaler runs; what worst_latency_ms and
    bound need where workers don't tell their curves. Workers are looked at twice a second, so that
    gpu_seconds are right to half a second a worker, and suspends and scale_events are those that were seen.
    A session that arrives idle is opened when its user first wants pictures. failed: viewers that lost their
    session.

    \b
      turboserve replay                              beside `make up`, with the page open
      turboserve replay --trace bursts.jsonl --speed 2 --json
    """
    from bench.live.replay import Asked, replay
    from bench.traces.files import SMALL

    events = read_trace(SMALL if file is None else file)
    target_s = None if latency_target_ms is None else latency_target_ms / 1000.0

    async def run(_: Console) -> int:
        with progress("replaying", lines=True) as tell:
            shown = None if tell is None else lambda share, house: tell(share, _words(house))
            told = await replay(events, Asked(url, speed, target_s), shown)
        click.echo(json.dumps(told) if as_json else "\n".join(lines(told)))
        return int(told["failed"] > 0)

    run_client(run)


def _words(house: House) -> str:
    meter = house.meter
    return f"{meter.active} active, {meter.queued} waiting, {meter.workers} workers"
