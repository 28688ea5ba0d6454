"""Viewers, and what an operator does to their sessions while they watch."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.gpu.system.run import Run
from bench.gpu.system.spectator import Spectator, Watched
from turboserve.errors import TurboserveError
from turboserve.messages import Moved, Stowed

_OPEN_S = 60.0
_CLOSE_S = 20.0
_PROVEN_S = 10.0
_LOOK_S = 0.02


class Move(NamedTuple):
    viewer: Spectator
    asked_at: float
    call_s: float
    moved: Moved


class Restored(NamedTuple):
    """Times by the wall clock. `home`: the worker that had its state, in host memory."""

    viewer: Spectator
    asked_at: float
    answered_at: float
    home: str
    stowed: Stowed


@dataclass
class Half:
    """What happened while moves were made (or weren't)."""

    moves: list[Move] = field(default_factory=list)
    suspends: list[Stowed] = field(default_factory=list)
    restores: list[Restored] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def chunks(self) -> int:
        return sum(len(each.chunks_seen) for each in self.watched)

    @property
    def late(self) -> int:
        return sum(each.late for each in self.watched)


class Crowd:
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

    async def open(self, half: Half, suspended: int = 0) -> None:
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

    async def move(self, half: Half) -> None:
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
        half.moves.append(Move(viewer, asked_at, time.perf_counter() - started, moved))
        if moved.outcome == "moved":
            self._at[viewer.session] = target
        else:
            half.failed.append(f"move of {viewer.session} to {target}: {moved.outcome}, {moved.why}")
            await self._look(viewer)

    async def rotate(self, half: Half) -> None:
        """One comes back, and one makes room for it, if there is one: on the same worker, or on another one
        where who is resumed is to go there.
        """
        if not self._suspended:
            return
        back = self._suspended[0]
        active = [viewer for viewer in self.viewers if viewer not in self._suspended]
        at_home = [v for v in active if self._at[v.session] == self._at[back.session]]
        where = [v for v in active if v not in at_home] if self._run.asked.away else at_home
        leaves = min(where or active, key=lambda viewer: self._restored.get(viewer.session, 0.0))
        await self.suspend(half, leaves)
        await self.restore(half, back)

    async def suspend(self, half: Half, viewer: Spectator) -> None:
        viewer.suspended()
        self._touch(viewer)
        self._suspended.append(viewer)
        try:
            half.suspends.append(await self._run.client.suspend(viewer.session))
        except TurboserveError as error:
            half.failed.append(f"suspend of {viewer.session}: {error}")

    async def restore(self, half: Half, viewer: Spectator) -> None:
        self._suspended.remove(viewer)
        self._touch(viewer)
        self._restored[viewer.session] = time.monotonic()
        viewer.restored()
        asked_at, home = time.time(), self._at[viewer.session]
        try:
            stowed = await self._run.client.restore(viewer.session)
        except TurboserveError as error:
            half.failed.append(f"restore of {viewer.session}: {error}")
            return
        half.restores.append(Restored(viewer, asked_at, time.time(), home, stowed))
        self._at[viewer.session] = stowed.worker or home
        if not stowed.worker:
            await self._look(viewer)

    def _touch(self, viewer: Spectator) -> None:
        self._touched[viewer.session] = time.monotonic()

    async def _look(self, viewer: Spectator) -> None:
        """Where it is after a move that didn't happen, or while it waits for room."""
        try:
            info = await self._run.client.get(viewer.session)
        except TurboserveError:
            return
        self._at[viewer.session] = info.worker or self._at[viewer.session]
