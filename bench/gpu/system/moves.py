"""Sessions moved, suspended and resumed by an operator's calls while their viewers watch, and the same rhythm
without moves for comparison: both halves on one start-up, with the same seeds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.gpu.system.crowd import Crowd, Half
from bench.gpu.system.move_report import tell_half, tell_moves
from bench.gpu.system.run import Run
from bench.gpu.system.stow_report import tell_resumes, tell_suspends

_CLOSE_S = 20.0
_BACK_S = 30.0


async def moves(run: Run) -> None:
    await _rehearse(run)
    before = await run.fleet.held()
    quiet = await _half(run, moving=False)
    tell_half(run, "without moves", quiet)
    busy = await _half(run, moving=True)
    tell_half(run, "with moves", busy)
    tell_moves(run, busy)
    tell_suspends(run, [*quiet.suspends, *busy.suspends])
    tell_resumes(run, [*quiet.restores, *busy.restores])
    extra = busy.late - quiet.late * busy.chunks / max(quiet.chunks, 1)
    run.report.row(
        "late chunks beyond the half without moves", f"{max(0.0, extra):.1f}", "late_beyond", max(0.0, extra)
    )
    await _tell_left(run, before)


async def _rehearse(run: Run) -> None:
    """Every way once, so that what is kept from then on (links, graphs, pools) is there."""
    crowd = Crowd(run, 2)
    half = Half()
    await crowd.open(half)
    for _ in range(4):
        await crowd.move(half)
    await crowd.suspend(half, crowd.viewers[0])
    await crowd.restore(half, crowd.viewers[0])
    await crowd.close()
    for failure in half.failed:
        run.problem(f"rehearsal: {failure}")


async def _half(run: Run, *, moving: bool) -> Half:
    half, crowd = Half(), Crowd(run, run.asked.sessions)
    try:
        await crowd.open(half, max(0, run.asked.sessions - run.asked.active))
        await asyncio.sleep(run.asked.settle)
        for viewer in crowd.viewers:
            viewer.forget()
        half = Half(failed=half.failed)
        await _beats(run, crowd, half, moving=moving)
    finally:
        half.watched = await crowd.close()
    return half


async def _beats(run: Run, crowd: Crowd, half: Half, *, moving: bool) -> None:
    """A move a beat; every few beats one session is suspended and another comes back."""
    started = time.monotonic()
    for number in range(run.asked.moves):
        if run.left_s() < _CLOSE_S:
            run.report.notes.append(f"only {number} beats of {run.asked.moves}: no time left")
            break
        next_at = time.monotonic() + run.asked.beat
        if moving:
            await crowd.move(half)
        if number % run.asked.rotate_every == run.asked.rotate_every - 1:
            await crowd.rotate(half)
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
    half.took_s = time.monotonic() - started


async def _tell_left(run: Run, before: dict[str, Any]) -> None:
    after = await run.fleet.back_at(before, min(_BACK_S, max(run.left_s(), 5.0)))
    for worker, held in before.items():
        now = after[worker]
        left = {
            name: getattr(now, name) - getattr(held, name)
            for name in held._fields
            if getattr(now, name) > getattr(held, name)
        }
        said = ", ".join(f"{name} {n:+,}" for name, n in left.items()) or "all exactly back"
        run.report.row(f"left behind by {worker}", said, f"left {worker}", left)
        if left:
            run.problem(f"{worker} kept {said}")
