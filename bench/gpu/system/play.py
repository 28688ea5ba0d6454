"""How many viewers each worker keeps up with, rung by rung, and what they see."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from bench.gpu.system.fleet import Fleet
from bench.gpu.system.run import Run, appended, medians, spread, stage_spreads, words
from bench.gpu.system.spectator import Spectator, Watched
from turboserve.errors import TurboserveError

ENOUGH = 0.99
_OPEN_S = 60.0
_CLOSE_S = 20.0


class Spell(NamedTuple):
    """`apart`: by worker, how many sessions it had."""

    rung: str
    each: int
    watched: list[Watched]
    apart: Counter[str]
    figures: dict[str, Any]

    @property
    def worst(self) -> float:
        return min((watched.ratio for watched in self.watched), default=0.0)


async def play(run: Run) -> None:
    """Ascending, until one doesn't keep up or the time is over."""
    for rung in run.rungs():
        most = 0
        for each in run.asked.sizes:
            if run.left_s() < run.asked.seconds + run.asked.settle:
                run.report.row(f"{rung}: {each} a GPU", "not tried: no time left")
                break
            spell = await _spell(run, rung, each)
            _tell(run, spell)
            if spell.worst < ENOUGH:
                break
            most = each
        run.report.row(f"{rung}: streams a GPU, ratio ≥ {ENOUGH}", str(most), f"streams {rung}", most)


async def _spell(run: Run, rung: str, each: int) -> Spell:
    count = each * len(run.services.workers)
    viewers = [Spectator(run.services.url, seed, rung, run.asked.steer_every) for seed in range(count)]
    watching = [asyncio.create_task(viewer.watch()) for viewer in viewers]
    try:
        await _joined(viewers, watching)
        await _spread(run, viewers)
        await asyncio.sleep(run.asked.settle)
        opening_stall_s = [viewer.seen.stalled_s for viewer in viewers]
        for viewer in viewers:
            viewer.forget()
        before, since = await run.services.metrics(), time.monotonic()
        await asyncio.sleep(run.asked.seconds)
        after = await run.services.metrics()
        apart = Counter(viewer.worker for viewer in viewers)
    finally:
        for viewer in viewers:
            viewer.finish()
        async with asyncio.timeout(_CLOSE_S):
            ended = await asyncio.gather(*watching, return_exceptions=True)
    watched = [seen for seen in ended if isinstance(seen, Watched)]
    figures = _figures(watched) | {
        "sessions_by_worker": apart,
        "opening_stall_s": opening_stall_s,
        "append_mean_s": appended(before, after),
        "devices": _devices(run.fleet, since),
        "errors": [repr(error) for error in ended if isinstance(error, BaseException)],
    }
    return Spell(rung, each, watched, apart, figures)


async def _joined(viewers: Sequence[Spectator], watching: Sequence[asyncio.Task[Watched]]) -> None:
    """Raises what a viewer that can't watch raised."""
    for viewer, task in zip(viewers, watching, strict=True):
        joined = asyncio.create_task(viewer.joined.wait())
        await asyncio.wait({joined, task}, return_when=asyncio.FIRST_COMPLETED, timeout=_OPEN_S)
        joined.cancel()
        if task.done():
            task.result()
        if not viewer.joined.is_set():
            raise TimeoutError(f"no first chunk of {viewer.session or 'a session'}: {viewer.seen.problems}")


async def _spread(run: Run, viewers: Sequence[Spectator]) -> None:
    """The same number on every worker, by moves."""
    on = {worker: [v for v in viewers if v.worker == worker] for worker in run.services.workers}
    while len(max(on.values(), key=len)) - len(min(on.values(), key=len)) > 1:
        source, target = max(on, key=lambda w: len(on[w])), min(on, key=lambda w: len(on[w]))
        viewer = on[source].pop()
        try:
            moved = await run.client.move(viewer.session, target)
        except TurboserveError as error:
            run.report.notes.append(f"sessions are spread unevenly: {error}")
            return
        if moved.outcome not in ("moved", "placed"):
            run.report.notes.append(f"sessions are spread unevenly: {moved.why}")
            return
        on[target].append(viewer)


def _devices(fleet: Fleet, since: float) -> dict[str, dict[str, float | None]]:
    return {worker: fleet.use(worker, since)._asdict() for worker in fleet.reports}


def _figures(watched: Sequence[Watched]) -> dict[str, Any]:
    return {
        "ratio_each": [each.ratio for each in watched],
        "fps_each": [each.fps for each in watched],
        "fps_in_all": sum(each.fps for each in watched),
        "late_chunks": sum(each.late for each in watched),
        "first_chunk": spread([each.ttfc_s for each in watched]),
        "chunk_latency": spread([s for each in watched for s in each.chunk_latencies_s]),
        "prompt_to_pixel": spread([s for each in watched for s in each.prompt_to_pixel_s]),
        "delivery": spread([s for each in watched for s in each.deliveries_s]),
        "stages": stage_spreads(seen.stages for each in watched for seen in each.chunks_seen),
        "problems": [problem for each in watched for problem in each.problems],
        "sessions": [_session(each) for each in watched],
    }


def _session(watched: Watched) -> dict[str, Any]:
    latency, steers = spread(watched.chunk_latencies_s), spread(watched.prompt_to_pixel_s)
    kept = ("session", "ttfc_s", "played_s", "stalled_s", "chunks", "frames", "problems")
    told = asdict(watched)
    return {name: told[name] for name in kept} | {
        "ratio": watched.ratio,
        "fps": watched.fps,
        "late": watched.late,
        "chunk_latency": latency,
        "prompt_to_pixel": steers,
    }


def _tell(run: Run, spell: Spell) -> None:
    figures, report = spell.figures, run.report
    title = f"{spell.rung}, {spell.each} a GPU"
    apart = ", ".join(f"{worker} {n}" for worker, n in sorted(spell.apart.items()))
    ratios = figures["ratio_each"] or [0.0]
    fps = figures["fps_each"] or [0.0]
    report.row(
        f"{title}: continuous play, worst / mean; late chunks",
        f"{spell.worst:.4f} / {statistics.fmean(ratios):.4f}; {figures['late_chunks']} ({apart})",
        title,
        figures,
    )
    report.row(
        f"{title}: frames/s, least of one session, all together",
        f"{min(fps):.2f}, {figures['fps_in_all']:.1f}",
    )
    for name, what in (
        ("first_chunk", "time to first chunk"),
        ("chunk_latency", "chunk latency"),
        ("prompt_to_pixel", "prompt to pixel"),
    ):
        report.row(f"{title}: {what}", words(figures[name]))
    stages = medians(figures["stages"])
    append = figures["append_mean_s"]
    report.row(
        f"{title}: stages, medians in ms",
        f"{stages}, append {1000 * append:.1f} (mean)" if append is not None else stages,
    )
    for worker, use in sorted(figures["devices"].items()):
        report.row(f"{title}: {worker}", _use(use))
    for problem in (*figures["problems"], *figures["errors"]):
        run.problem(f"{title}: {problem}")


def _use(use: dict[str, float | None]) -> str:
    told = [f"{use['memory_gib']:.1f} GiB"]
    if use["utilisation_ratio"] is not None:
        told.insert(0, f"busy {100 * use['utilisation_ratio']:.0f} %")
    if use["power_w"] is not None:
        told.append(f"{use['power_w']:.0f} W")
    return ", ".join(told)
