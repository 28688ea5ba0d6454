"""Draining a worker: its sessions go elsewhere with their state where that can be, and it stops.

What can't be moved, or isn't in time, is placed elsewhere with a new epoch: its picture begins anew while its
index goes on. A paused session that can't be moved is let go, and placed when it is resumed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from services.placement.facts import Event, OwnerLost
from services.placement.live import Live
from services.placement.moves import Wanted
from services.placement.phases import timed
from services.placement.room import Room
from services.placement.transfers import WHY
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.fleet import DrainWorker, Drop, LoadReport, PhaseTime, WorkerDrained
from shared.store.rows import SessionRow

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

_STOPS_WITHIN_S = 30.0
"""A drained worker that still holds a copy then, because a drop was lost, stops all the same."""
_MOVES_WITHIN_S = 12.0
_FAILURES_IN_A_ROW = 2
"""After so many moves that came to nothing the rest is placed: something is wrong with the worker."""
_DECIDED_WITHIN_S = 2.0
_COMMANDS_AT_ONCE = 16


class _Left(NamedTuple):
    """A session that the worker owned, with the epoch it had there."""

    live: Live
    epoch: int


class Drainer:
    """For `Operations`."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._commands = asyncio.Semaphore(_COMMANDS_AT_ONCE)

    async def drain(self, request: DrainWorker) -> WorkerDrained:
        """Raises `Refused`: there is no such worker, it is the only one, it doesn't answer."""
        placement, worker, phases = self._placement, request.worker, list[PhaseTime]()
        report = self._known(worker)
        if not request.force:
            self._refuse_only(report)
        placement.draining[worker] = report.incarnation
        await placement.voice.load(placement.load())  # the autoscaler must not take its end for a crash
        try:
            with timed(phases, "move"):
                moved = await self._move(worker)
            with timed(phases, "place"):
                left = await self._leave(worker)
                await placement.ticks.decided(_DECIDED_WITHIN_S)
        except Exception:
            placement.draining.pop(worker, None)
            raise
        logger.info("draining: %d moved, %d leave", len(moved["moved"]), len(left), extra={"worker": worker})
        with timed(phases, "start"):
            await self._start(left)
        with timed(phases, "release"):
            await self._release(worker, left)
        with timed(phases, "stop"):
            copies = await self._stop(worker)
        return _answer(worker, moved, left, copies, phases)

    def _known(self, worker: str) -> LoadReport:
        alive = {state.report.worker: state.report for state in self._placement.fleet.alive(time.monotonic())}
        if worker not in alive:
            known = ", ".join(sorted(alive)[:10]) or "none at the moment"
            raise Refused("worker_not_found", f"there is no worker {worker[:60]!r}", f"workers: {known}")
        return alive[worker]

    def _refuse_only(self, report: LoadReport) -> None:
        if any(_could_replace(room, report) for room in self._placement.rooms()):
            return
        raise Refused(
            "only_worker",
            f"no other worker is ready to serve {report.model.name}, so the sessions of {report.worker} "
            "would wait",
            "start another worker first, or drain it with force",
        )

    async def _move(self, worker: str) -> dict[str, list[str]]:
        """The sessions that went to other workers, by outcome: those that play first. One by one, as a
        worker's link is for one; an operator's own move takes its turn in between.
        """
        went: dict[str, list[str]] = {"moved": [], "placed": []}
        failures, deadline = 0, time.monotonic() + _MOVES_WITHIN_S
        for live in self._concerned(worker):
            await self._placement.mover.settle(live)
            if live.row.worker != worker or live.row.ended:
                continue
            if time.monotonic() > deadline or failures >= _FAILURES_IN_A_ROW:
                break
            outcome = await self._hand_over(live)
            failures = failures + 1 if outcome in ("stayed", "lost") else 0
            if outcome in went:
                went[outcome].append(live.row.id)
        return went

    def _concerned(self, worker: str) -> list[Live]:
        """Those it owns, and those on their way there."""
        live = list(self._placement.sessions.live.values())
        return sorted(
            (one for one in live if worker in one.places | {one.row.worker}),
            key=lambda one: one.row.status != "active",
        )

    async def _hand_over(self, live: Live) -> str:
        """What came of it, "" if it could not even be tried. Nobody waits for the next one's first chunk."""
        try:
            return (await self._placement.mover.hand_over(live, Wanted("", _MOVES_WITHIN_S))).outcome
        except Refused as refused:
            logger.info("not moved: %s", refused, extra={"session": live.row.id})
            return ""

    async def _leave(self, worker: str) -> list[_Left]:
        """The next decision places all that were active."""
        placement, left = self._placement, list[_Left]()

        def decide(row: SessionRow) -> Sequence[Event]:
            return [OwnerLost(row.epoch, WHY)] if row.worker == worker else []

        sessions = list(placement.sessions.live.values())
        for live in [live for live in sessions if worker in (live.row.worker, live.reserved)]:
            changed = await placement.sessions.change(live, decide)
            if changed.before is not None and changed.row is not changed.before:
                left.append(_Left(live, changed.before.epoch))
                await placement.announce(changed)
        return left

    async def _start(self, left: Sequence[_Left]) -> None:
        """Have the new owners begin. One that doesn't answer is told again by the next rounds."""

        async def tell(live: Live) -> None:
            async with self._commands:
                await self._placement.voice.ask_own(live)

        await asyncio.gather(*(tell(one.live) for one in left if one.live.row.worker))

    async def _release(self, worker: str, left: Sequence[_Left]) -> None:
        """The old copies; the chunk log refuses what they would still append."""

        async def tell(one: _Left) -> None:
            async with self._commands:
                await self._placement.voice.ask_drop(worker, Drop(one.live.row.id, one.epoch))

        await asyncio.gather(*(tell(one) for one in left))

    async def _stop(self, worker: str) -> int:
        try:
            return await self._placement.voice.ask_drain(worker, time.time() + _STOPS_WITHIN_S)
        except (NoAnswer, BusAway):
            message = f"nothing is placed on worker {worker} any more, but it doesn't answer"
            raise Refused("worker_silent", message, "drain it again, or stop its process") from None


def _could_replace(room: Room, report: LoadReport) -> bool:
    return room.worker != report.worker and room.model == report.model.name and room.capacity > 0


def _answer(
    worker: str, went: dict[str, list[str]], left: Sequence[_Left], copies: int, phases: list[PhaseTime]
) -> WorkerDrained:
    def those(status: str) -> list[str]:
        return [one.live.row.id for one in left if one.live.row.status == status]

    came_back = {one.live.row.id for one in left}
    return WorkerDrained(
        worker,
        [session for session in went["moved"] if session not in came_back],
        those("queued"),
        those("paused"),
        copies,
        phases,
        went["placed"] + those("active"),
    )
