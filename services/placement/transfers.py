"""Moves that were decided: begun in the background, a bounded number, and not again at once if they fail."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from services.placement.facts import Event, OwnerLost, Placed
from services.placement.live import Live, in_trace_of
from services.placement.moves import BUSY, Wanted
from shared.bus import Refused
from shared.store.rows import SessionRow

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 16
"""Of those under way or waiting for their turn: one at a time leaves a worker, and one comes to it."""
_BACK_OFF_S = (2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_BUSY_AGAIN_S = 0.5
_NEVER = frozenset({"incompatible"})
_TRIES = 2
"""After so many a session on a worker that is drained begins anew elsewhere, rather than hold that up."""
WHY = "its worker is being drained"


class _Setback(NamedTuple):
    failures: int
    again_at: float


class Transfers:
    """Of active sessions, as policies want them, and of paused ones on workers that are drained."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._targets: dict[str, str] = {}
        self._setbacks: dict[str, _Setback] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def target_of(self, session: str) -> str:
        """Where it is to go, "" if nowhere else."""
        return self._targets.get(session, "")

    def under_way(self, session: str) -> bool:
        return session in self._targets

    def stuck(self, session: str, now: float) -> bool:
        """Whether a move of it can't be begun at this moment."""
        setback = self._setbacks.get(session)
        return session in self._targets or (setback is not None and setback.again_at > now)

    def begin(self, live: Live, target: str, decision: str) -> bool:
        """Whether it could be. `target` "": the worker with most room."""
        session = live.row.id
        full = len(self._targets) >= MAX_AT_ONCE
        if full or live.move is not None or self.stuck(session, time.monotonic()):
            return False
        self._targets[session] = target
        task = asyncio.create_task(self._carry(live, target, decision), name=f"transfer {session}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _carry(self, live: Live, target: str, decision: str) -> None:
        source, session = live.row.worker, live.row.id
        try:
            with in_trace_of(live):
                outcome = await self._move(live, target, decision)
                self._note(session, outcome)
                if outcome in ("stayed", "never") and source in self._placement.retiring.workers:
                    await self._begin_anew(live, source, target, decision, never=outcome == "never")
        except Refused as refused:
            logger.info("not moved: %s", refused, extra={"session": session, "worker": source})
        except Exception:
            self._note(session, "stayed")
            logger.exception("a move failed", extra={"session": session, "worker": source})
        finally:
            del self._targets[session]
            self._placement.ticks.stir()

    async def _move(self, live: Live, target: str, decision: str) -> str:
        """As in `SessionMoved`, or "busy": later, "never": not to there."""
        try:
            run = await self._placement.mover.hand_over(live, Wanted(target, decision=decision))
            moved = await run.answered()
        except Refused as refused:
            logger.info("not moved: %s", refused, extra={"session": live.row.id, "worker": live.row.worker})
            code = refused.refusal.code
            return "busy" if code in BUSY else "never" if code in _NEVER else "stayed"
        if moved.outcome == "moved":
            self._placement.sessions.tally.moved(moved.pause_s)
        return moved.outcome

    def _note(self, session: str, outcome: str) -> None:
        before = self._setbacks.pop(session, None)
        failures = before.failures if before is not None else 0
        if outcome == "busy":
            self._setbacks[session] = _Setback(failures, time.monotonic() + _BUSY_AGAIN_S)
        elif outcome not in ("moved", "placed"):
            wait_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
            self._setbacks[session] = _Setback(failures + 1, time.monotonic() + wait_s)

    async def _begin_anew(self, live: Live, source: str, target: str, decision: str, *, never: bool) -> None:
        """Off a worker that the autoscaler empties: what can't be moved is placed by a new epoch where there
        is room, a paused session when it is resumed.
        """
        placement = self._placement
        tried = never or self._setbacks[live.row.id].failures >= _TRIES
        ready = (report for report in placement.reports() if report.state == "ready")
        found = next((report for report in ready if report.worker == target), None)

        def decide(row: SessionRow) -> list[Event]:
            lost = OwnerLost(row.epoch, WHY)
            if row.worker != source:
                return []
            if row.status == "paused":
                return [lost]
            if found is None or not tried:
                return []
            return [lost, Placed(target, found.incarnation, decision)]

        await placement.change(live, decide)

    def forget_ended(self) -> None:
        live = self._placement.sessions.live
        self._setbacks = {session: held for session, held in self._setbacks.items() if session in live}

    async def close(self) -> None:
        """Moves under way go on between their workers; the next placement sees what became of them."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
