"""Sessions moved, suspended and resumed by an operator's calls while their viewers watch, and the same rhythm
without moves for comparison: both halves on one start-up, with the same seeds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.gpu.system.run import Run, spread, words
from bench.gpu.system.spectator import Spectator, Watched
from turboserve.errors import TurboserveError
from turboserve.messages import Moved, Phase, Stowed

_SESSIONS = 6
_OPEN_S = 60.0
_CLOSE_S = 20.0
_BACK_S = 30.0
_PROVEN_S = 10.0
_LOOK_S = 0.02
_CARRIED = ("propose", "reserve", "order", "carry")
"""Of a move's phases: those until the target may go on."""


@dataclass
class _Move:
    viewer: Spectator
    asked_at: float
    call_s: float
    moved: Moved


@dataclass
class _Half:
    """What happened while moves were made (or weren't)."""

    moves: list[_Move] = field(default_factory=list)
    suspends: list[Stowed] = field(default_factory=list)
    restores: list[Stowed] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def chunks(self) -> int:
        return sum(len(each.chunks_seen) for each in self.watched)

    @property
    def late(self) -> int:
        return sum(each.late for each in self.watched)


async def moves(run: Run) -> None:
    await _rehearse(run)
    before = await run.fleet.held()
    quiet = await _half(run, moving=False)
    _tell_half(run, "without moves", quiet)
    busy = await _half(run, moving=True)
    _tell_half(run, "with moves", busy)
    _tell_moves(run, busy)
    _tell_stowing(run, [*quiet.suspends, *busy.suspends], [*quiet.restores, *busy.restores])
    extra = busy.late - quiet.late * busy.chunks / max(quiet.chunks, 1)
    run.report.row(
        "late chunks beyond the half without moves", f"{max(0.0, extra):.1f}", "late_beyond", max(0.0, extra)
    )
    await _tell_left(run, before)


async def _rehearse(run: Run) -> None:
    """Every way once, so that what is kept from then on (links, graphs, pools) is there."""
    crowd = _Crowd(run, 2)
    half = _Half()
    await crowd.open(half)
    for _ in range(4):
        await crowd.move(half)
    await crowd.suspend(half, crowd.viewers[0])
    await crowd.restore(half, crowd.viewers[0])
    await crowd.close()
    for failure in half.failed:
        run.problem(f"rehearsal: {failure}")


async def _half(run: Run, *, moving: bool) -> _Half:
    half, crowd = _Half(), _Crowd(run, _SESSIONS)
    try:
        await crowd.open(half, max(0, _SESSIONS - run.asked.active))
        await asyncio.sleep(run.asked.settle)
        for viewer in crowd.viewers:
            viewer.forget()
        half = _Half(failed=half.failed)
        await _beats(run, crowd, half, moving=moving)
    finally:
        half.watched = await crowd.close()
    return half


async def _beats(run: Run, crowd: _Crowd, half: _Half, *, moving: bool) -> None:
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


class _Crowd:
    """Viewers and what an operator does to their sessions. The longest suspended come back first."""

    def __init__(self, run: Run, count: int) -> None:
        self.viewers = [
            Spectator(run.services.url, seed, run.asked.rung, run.asked.steer_every) for seed in range(count)
        ]
        self._run = run
        self._at: dict[str, str] = {}
        self._suspended: list[Spectator] = []
        self._touched: dict[str, float] = {}
        self._restored: dict[str, float] = {}
        self._watching: list[asyncio.Task[Watched]] = []

    async def open(self, half: _Half, suspended: int = 0) -> None:
        """One after another, the first `suspended` of them to be suspended at once: never more are active
        than there is room for.
        """
        for number, viewer in enumerate(self.viewers):
            task = asyncio.create_task(viewer.watch())
            self._watching.append(task)
            joined = asyncio.create_task(viewer.joined.wait())
            await asyncio.wait({task, joined}, return_when=asyncio.FIRST_COMPLETED, timeout=_OPEN_S)
            joined.cancel()
            if task.done():
                task.result()
            if not viewer.joined.is_set():
                raise TimeoutError(
                    f"no first chunk of {viewer.session or 'a session'} within {_OPEN_S:.0f} s"
                )
            self._at[viewer.session] = viewer.worker
            if number < suspended:
                await self.suspend(half, viewer)

    async def close(self) -> list[Watched]:
        for viewer in self.viewers:
            viewer.finish()
        async with asyncio.timeout(_CLOSE_S):
            ended = await asyncio.gather(*self._watching, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                self._run.problem(f"a viewer failed: {error!r}")
        return [seen for seen in ended if isinstance(seen, Watched)]

    async def move(self, half: _Half) -> None:
        """From the worker with most active sessions to that with fewest: the one that was left alone longest
        of those that made a chunk where they are now. Before that a session can't be moved again.
        """
        active = [viewer for viewer in self.viewers if viewer not in self._suspended]
        load = Counter(dict.fromkeys(self._run.services.workers, 0))
        load.update(self._at[viewer.session] for viewer in active)
        source = max(load, key=lambda worker: load[worker])
        target = min((w for w in load if w != source), key=lambda worker: load[worker])
        theirs = [viewer for viewer in active if self._at[viewer.session] == source]
        viewer = min(theirs, key=lambda viewer: (self._touched.get(viewer.session, 0.0), viewer.session))
        async with asyncio.timeout(_PROVEN_S):
            while viewer.worker != source:
                await asyncio.sleep(_LOOK_S)
        self._touch(viewer)
        asked_at, started = time.time(), time.perf_counter()
        try:
            moved = await self._run.client.move(viewer.session, target)
        except TurboserveError as error:
            half.failed.append(f"move of {viewer.session} to {target}: {error}")
            await self._look(viewer)
            return
        half.moves.append(_Move(viewer, asked_at, time.perf_counter() - started, moved))
        if moved.outcome == "moved":
            self._at[viewer.session] = target
        else:
            half.failed.append(f"move of {viewer.session} to {target}: {moved.outcome}, {moved.why}")
            await self._look(viewer)

    async def rotate(self, half: _Half) -> None:
        """One comes back, and one on the same worker makes room for it, if there is one."""
        if not self._suspended:
            return
        back = self._suspended[0]
        active = [viewer for viewer in self.viewers if viewer not in self._suspended]
        beside = [v for v in active if self._at[v.session] == self._at[back.session]] or active
        await self.suspend(half, min(beside, key=lambda viewer: self._restored.get(viewer.session, 0.0)))
        await self.restore(half, back)

    async def suspend(self, half: _Half, viewer: Spectator) -> None:
        viewer.suspended()
        self._touch(viewer)
        self._suspended.append(viewer)
        try:
            half.suspends.append(await self._run.client.suspend(viewer.session))
        except TurboserveError as error:
            half.failed.append(f"suspend of {viewer.session}: {error}")

    async def restore(self, half: _Half, viewer: Spectator) -> None:
        self._suspended.remove(viewer)
        self._touch(viewer)
        self._restored[viewer.session] = time.monotonic()
        viewer.restored()
        try:
            stowed = await self._run.client.restore(viewer.session)
        except TurboserveError as error:
            half.failed.append(f"restore of {viewer.session}: {error}")
            return
        half.restores.append(stowed)
        self._at[viewer.session] = stowed.worker or self._at[viewer.session]

    def _touch(self, viewer: Spectator) -> None:
        self._touched[viewer.session] = time.monotonic()

    async def _look(self, viewer: Spectator) -> None:
        """Where it is after a move that didn't happen."""
        try:
            info = await self._run.client.get(viewer.session)
        except TurboserveError:
            return
        self._at[viewer.session] = info.worker or self._at[viewer.session]


def _tell_half(run: Run, name: str, half: _Half) -> None:
    ratios = [each.ratio for each in half.watched if each.played_s]
    figures: dict[str, Any] = {
        "chunks": half.chunks,
        "late": half.late,
        "stalled_s": sum(each.stalled_s for each in half.watched),
        "took_s": half.took_s,
        "ratio_each": ratios,
        "chunk_latency": spread([s for each in half.watched for s in each.chunk_latencies_s]),
        "restored_to_pixel": spread([s for each in half.watched for s in each.restored_to_pixel_s]),
        "prompt_to_pixel": spread([s for each in half.watched for s in each.prompt_to_pixel_s]),
    }
    worst = min(ratios, default=0.0)
    run.report.row(
        f"{name}: chunks; late; stalled; worst continuous play",
        f"{half.chunks} in {half.took_s:.0f} s; {half.late}; {figures['stalled_s']:.2f} s; {worst:.4f}",
        name,
        figures,
    )
    run.report.row(f"{name}: chunk latency", words(figures["chunk_latency"]))
    gaps = [problem for each in half.watched for problem in each.problems]
    run.report.row(
        f"{name}: gaps, repeats, cuts, errors seen by viewers", str(len(gaps)), f"{name} gaps", gaps
    )
    for problem in (*gaps, *half.failed):
        run.problem(f"{name}: {problem}")


def _tell_moves(run: Run, half: _Half) -> None:
    report = run.report
    done = [each for each in half.moves if each.moved.outcome == "moved"]
    outcomes = Counter(each.moved.outcome for each in half.moves)
    told = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.items())
    report.row("moves by outcome; not begun", f"{told}; {len(half.failed)}", "moves", outcomes)
    if not done:
        return
    sizes = [each.moved.sent_bytes for each in done]
    report.row("bytes sent, median", f"{sorted(sizes)[len(sizes) // 2]:,}", "sent_bytes", sizes)
    pauses = spread([each.moved.pause_s for each in done])
    report.row("pause: frozen to the target able to go on", words(pauses), "pause", pauses)
    going = spread([_whole_s([p for p in each.moved.phases if p.name in _CARRIED]) for each in done])
    report.row("decision to the target going on", words(going), "going", going)
    whole = spread([_whole_s(each.moved.phases) for each in done])
    report.row("decision to its proof, as placement tells it", words(whole), "whole", whole)
    calls = spread([each.call_s for each in done])
    report.row("the operator's whole HTTP call", words(calls), "call", calls)
    _tell_times(run, done)
    _tell_phases(run, "move", [each.moved.phases for each in done])


def _tell_times(run: Run, done: Sequence[_Move]) -> None:
    """By the workers' own words. Between a session's arrival and its step there lie steps of another one that
    is needed sooner, or that was at one.
    """
    told = [(each, run.fleet.moves.of(each.viewer.session, each.asked_at)) for each in done]
    seen = [(each, times) for each, times in told if times is not None]
    mid = [(each, times) for each, times in seen if times.mid_chunk]
    run.report.row("moves of which all was heard; in mid-chunk", f"{len(seen)} of {len(done)}; {len(mid)}")
    spans: dict[str, list[float]] = {
        "the operator's call to reserved": [t.reserved_at - m.asked_at for m, t in seen],
        "  to the first bytes": [t.copying_at - t.reserved_at for _, t in seen],
        "  to frozen": [t.frozen_at - t.copying_at for _, t in seen],
        "  to the target able to go on (the pause)": [t.arrived_at - t.frozen_at for _, t in seen],
        "the operator's call to the target able to go on": [t.arrived_at - m.asked_at for m, t in seen],
        "in mid-chunk: able to go on to its step told the device": [
            t.stepped_at - t.arrived_at for _, t in mid
        ],
        "in mid-chunk: frozen to that step": [t.stepped_at - t.frozen_at for _, t in mid],
        "in mid-chunk: the operator's call to that step": [t.stepped_at - m.asked_at for m, t in mid],
    }
    for name, seconds in spans.items():
        figure = spread(seconds)
        run.report.row(name, words(figure), name.strip(), figure)


def _tell_stowing(run: Run, suspends: Sequence[Stowed], restores: Sequence[Stowed]) -> None:
    for name, told in (("suspend", suspends), ("resume", restores)):
        if not told:
            continue
        whole = spread([_whole_s(stowed.phases) for stowed in told])
        tiers = Counter(stowed.tier for stowed in told)
        ended = ", ".join(f"{tier} {n}" for tier, n in tiers.items())
        run.report.row(f"{name}: whole, {len(told)} times ({ended})", words(whole), name, whole)
        copied = [stowed.bytes for stowed in told]
        run.report.row(f"{name}: bytes copied, most", f"{max(copied):,}", f"{name} bytes", copied)
        _tell_phases(run, name, [stowed.phases for stowed in told])


def _tell_phases(run: Run, call: str, told: Sequence[Sequence[Phase]]) -> None:
    phases: dict[str, list[float]] = {}
    for phase in (phase for each in told for phase in each):
        phases.setdefault(phase.name, []).append(phase.duration_s)
    for name, seconds in phases.items():
        figure = spread(seconds)
        run.report.row(f"  {call}, {name}", words(figure), f"{call} {name}", figure)


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


def _whole_s(phases: Sequence[Phase]) -> float:
    """Phases with a space in their names are details within the others."""
    return sum(phase.duration_s for phase in phases if " " not in phase.name)
