"""One session on a worker of its own: how fast it can be made, and how soon it shows a new prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.gpu.system.run import Run, counted, medians, spread, stage_spreads, words
from bench.gpu.system.spectator import Spectator, Watched

_OPEN_S = 60.0
_CLOSE_S = 20.0
_LOOK_S = 0.2


async def alone(run: Run) -> None:
    """At each rung asked for (else the model's default): a hungry viewer, then one that steers."""
    for rung in run.asked.rungs or [""]:
        name = rung or "default rung"
        await _hungry(run, rung, f"{name}, one session, credit as fast as chunks come")
        await _steered(run, rung, f"{name}, one session, a prompt about every {run.asked.prompt_every:g} s")


async def _hungry(run: Run, rung: str, title: str) -> None:
    viewer = Spectator(run.services.url, 0, rung, 0.0, hungry=True)
    async with _watched(viewer) as seen:
        await asyncio.sleep(run.asked.settle)
        viewer.forget()
        since = time.monotonic()
        await asyncio.sleep(run.asked.seconds)
        frames, took_s = seen.frames, time.monotonic() - since
        chunks = list(seen.chunks_seen)
    stages = stage_spreads(chunk.stages for chunk in chunks)
    figures: dict[str, Any] = {"fps": frames / took_s, "chunks": len(chunks), "stages": stages}
    latency = figures["chunk_latency"] = spread(seen.chunk_latencies_s)
    run.report.row(f"{title}: frames/s at the gateway", f"{frames / took_s:.2f}", title, figures)
    run.report.row(f"{title}: chunk latency", words(latency))
    run.report.row(f"{title}: stages, medians in ms", medians(stages))
    _problems(run, title, seen)


async def _steered(run: Run, rung: str, title: str) -> None:
    """Until so many prompts were shown, or time is up."""
    wanted = run.asked.prompts
    viewer = Spectator(run.services.url, 1, rung, run.asked.prompt_every)
    async with _watched(viewer) as seen:
        await asyncio.sleep(run.asked.settle)
        viewer.forget()
        before = await run.services.metrics()
        until = time.monotonic() + min(4 * wanted * run.asked.prompt_every, max(run.left_s() - _CLOSE_S, 0))
        while len(seen.prompt_to_pixel_s) < wanted and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        after = await run.services.metrics()
        told, late, ratio = spread(seen.prompt_to_pixel_s), seen.late, seen.ratio
    restarts = counted(before, after, "turboserve_worker_chunk_restarts_total")
    figures: dict[str, Any] = {
        "prompt_to_pixel": told,
        "prompt_to_pixel_s": seen.prompt_to_pixel_s,
        "chunk_latency": spread(seen.chunk_latencies_s),
        "restarts": restarts,
        "late": late,
        "ratio": ratio,
    }
    run.report.row(f"{title}: prompt to pixel", words(told), title, figures)
    run.report.row(f"{title}: chunk latency", words(figures["chunk_latency"]))
    text = f"{restarts:.0f}; {late}; {ratio:.4f}"
    run.report.row(f"{title}: chunks begun again; late; continuous play", text)
    _problems(run, title, seen)


@asynccontextmanager
async def _watched(viewer: Spectator) -> AsyncIterator[Watched]:
    """From its first chunk. Raises what a viewer that can't watch raised."""
    watching = asyncio.create_task(viewer.watch())
    joined = asyncio.create_task(viewer.joined.wait())
    try:
        await asyncio.wait({joined, watching}, return_when=asyncio.FIRST_COMPLETED, timeout=_OPEN_S)
        if watching.done():
            watching.result()
        if not viewer.joined.is_set():
            raise TimeoutError(f"no first chunk: {viewer.seen.problems}")
        yield viewer.seen
    finally:
        joined.cancel()
        viewer.finish()
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.wait([watching])


def _problems(run: Run, title: str, seen: Watched) -> None:
    for problem in seen.problems:
        run.problem(f"{title}: {problem}")
