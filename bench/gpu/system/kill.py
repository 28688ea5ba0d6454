"""One of the workers is killed while sessions play: what the others' viewers see, when its own sessions go on
elsewhere, and what becomes of its GPU's memory, which the others had mapped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from bench.gpu.system.crowd import Crowd, Half
from bench.gpu.system.run import Run, spread, words
from bench.gpu.system.spectator import LATE_S, Spectator

_MOVES = 4
_TAKEN_OVER_S = 30.0
_BACK_S = 15.0
_LOOK_S = 0.1
_SPARE_BYTES = 64 << 20
"""As much as a driver's own use may differ by."""


async def kill(run: Run) -> None:
    """To be the last part: a worker is missing afterwards."""
    crowd, half = Crowd(run, run.asked.active), Half()
    try:
        await crowd.open(half)
        for _ in range(_MOVES):
            await crowd.move(half)
        await asyncio.sleep(run.asked.settle)
        victim = list(run.services.workers)[-1]
        theirs = [viewer for viewer in crowd.viewers if viewer.worker == victim]
        others = [viewer for viewer in crowd.viewers if viewer.worker != victim]
        for viewer in crowd.viewers:
            viewer.forget()
        before, killed_at = run.gpu_memory(), time.time()
        run.services.kill(victim)
        if run.asked.told:
            await run.fleet.tell_end(victim)
        await _tell_memory(run, victim, before)
        await _taken_over(theirs, victim)
        await asyncio.sleep(run.asked.settle)
        told = run.gpu_memory()
    finally:
        half.watched = await crowd.close()
    for failure in half.failed:
        run.problem(f"before the kill: {failure}")
    for worker in run.services.workers:
        _tell_used(run, f"{worker}: GPU memory before the kill; at the end", worker, before, told)
    _tell_others(run, others, killed_at)
    _tell_theirs(run, theirs, victim, killed_at)


async def _tell_memory(run: Run, victim: str, before: Mapping[str, int]) -> None:
    """Until it is what it was before any worker had started."""
    idle, since = run.idle_memory.get(victim), time.monotonic()
    if idle is None or victim not in before:
        run.report.row(f"{victim}: GPU memory", "not told")
        return
    while (now := run.gpu_memory()[victim]) > idle + _SPARE_BYTES and time.monotonic() - since < _BACK_S:
        await asyncio.sleep(_LOOK_S)
    took_s = time.monotonic() - since
    run.report.row(
        f"{victim}: GPU memory before it started; in use; {took_s:.1f} s after its end",
        f"{idle:,}; {before[victim]:,}; {now:,} bytes",
        "killed memory",
        {"idle": idle, "in_use": before[victim], "after": now, "after_s": took_s},
    )
    if now > idle + _SPARE_BYTES:
        run.problem(f"the GPU of {victim}, which was killed, didn't get its memory back")


async def _taken_over(viewers: Sequence[Spectator], victim: str) -> None:
    """Returns at the deadline, too: who has no chunk then is told as a problem."""
    ends_at = time.monotonic() + _TAKEN_OVER_S
    while any(viewer.worker == victim for viewer in viewers) and time.monotonic() < ends_at:
        await asyncio.sleep(_LOOK_S)


def _tell_used(run: Run, name: str, worker: str, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    if worker in before:
        figures = {"before": before[worker], "after": after[worker]}
        run.report.row(name, f"{before[worker]:,}; {after[worker]:,} bytes", name, figures)


def _tell_others(run: Run, viewers: Sequence[Spectator], killed_at: float) -> None:
    """When chunks were late tells why: at once, or as the other worker's sessions came."""
    seen = [viewer.seen for viewer in viewers]
    late_s = sorted(
        chunk.at - killed_at for each in seen for chunk in each.chunks_seen if chunk.stalled_s > LATE_S
    )
    figures = {
        "sessions": len(seen),
        "chunks": sum(len(each.chunks_seen) for each in seen),
        "late_after_s": late_s,
        "stalled_s": sum(each.stalled_s for each in seen),
    }
    run.report.row(
        "sessions not of the killed worker; their chunks since; late; stalled",
        f"{figures['sessions']}; {figures['chunks']}; {_times(late_s)}; {figures['stalled_s']:.2f} s",
        "others",
        figures,
    )
    for each in seen:
        for problem in each.problems:
            run.problem(f"{each.session}, not of the killed worker: {problem}")


def _times(late_s: Sequence[float]) -> str:
    if not late_s:
        return "0"
    return f"{len(late_s)}, {late_s[0]:.1f} to {late_s[-1]:.1f} s after the kill"


def _tell_theirs(run: Run, viewers: Sequence[Spectator], victim: str, killed_at: float) -> None:
    """Chunks that it had made still come after its end."""
    after_s = []
    for viewer in viewers:
        elsewhere = [seen.at for seen in viewer.seen.chunks_seen if seen.worker != victim]
        if elsewhere:
            after_s.append(elsewhere[0] - killed_at)
        else:
            run.problem(f"{viewer.session}, of the killed worker, was not taken over")
        for problem in viewer.seen.problems:
            run.problem(f"{viewer.session}, of the killed worker: {problem}")
    figures = spread(after_s)
    run.report.row(
        f"of the killed worker, {len(viewers)}: taken over; killed to the first chunk from elsewhere",
        f"{len(after_s)}; {words(figures)}",
        "taken over",
        figures,
    )
    gaps = [problem for viewer in viewers for problem in viewer.seen.problems]
    run.report.row(
        "their gaps, repeats, cuts, errors seen by viewers", str(len(gaps)), "taken over gaps", gaps
    )
