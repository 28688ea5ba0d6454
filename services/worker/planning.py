"""What the device does next, as the roster and the states stand now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from services.worker import expecting
from services.worker.again import APPEND_S
from services.worker.copies import Copy
from services.worker.crossings import Crossings
from services.worker.errands import Errands, Later
from services.worker.making import Making
from services.worker.orders import Order
from services.worker.plan_batch import Candidate, may_begin, plan_batch
from services.worker.preparing import Preparing
from services.worker.restarting import Restarting
from services.worker.roster import Roster
from services.worker.showing import Showing
from services.worker.states import States

_LOOK_AGAIN_S = 1.0
_SOON_S = 0.001


class Plan(NamedTuple):
    """`batch`: orders to step together. `piece`: the next one of what is prepared comes first. Neither: there
    was nothing to do, and some time has passed.
    """

    batch: list[Order]
    piece: bool = False


@dataclass(slots=True)
class Planning:
    """The engine's, on its thread. `chunks`: those under way."""

    states: States
    roster: Roster
    errands: Errands
    restarting: Restarting
    crossings: Crossings
    showing: Showing
    preparing: Preparing
    chunks: dict[Copy, Making]

    def next(self, *, stopping: bool) -> Plan:
        """Without anything to do it waits for a change once, for the caller to look again, who holds the
        roster's lock.
        """
        copies = {copy.key: copy for copy in self.roster.copies()}
        candidates = [self._candidate(copy, self.chunks.get(copy)) for copy in copies.values()]
        now = time.monotonic()
        if not stopping and (wait_s := self._guests_wait_s(candidates, now)) > 0:
            self.restarting.say_until_when(candidates, self.chunks, (), wait_s)
            self._wait(wait_s)
            return Plan([])
        free = [c._replace(held=True) if self.preparing.holds(copies[c.key], c) else c for c in candidates]
        if not stopping and self._piece_is_next(candidates, free, now):
            self.restarting.say_until_when(candidates, self.chunks, ())
            return Plan([], piece=True)
        preferred = self._preferred(free, now)
        chosen = [
            copies[key]
            for key in plan_batch(preferred, self.restarting.costs.curves, self._beginnings(stopping))
        ]
        if not chosen and self.preparing.job is not None and not stopping:
            return Plan([], piece=True)
        if not chosen and not stopping:
            self._wait(_SOON_S if any(map(self.states.coming, copies.values())) else _LOOK_AGAIN_S)
        self.restarting.say_until_when(candidates, self.chunks, chosen)
        return Plan([self._order(copy) for copy in chosen])

    def has_time(self, seconds: float) -> bool:
        """Whether nothing is under way, and whatever may begin is in time though that is so much later."""
        with self.roster.changed:
            if self.chunks or self.preparing.job is not None:
                return False
            candidates = [self._candidate(copy, None) for copy in self.roster.copies()]
            return self._can_wait(candidates, seconds, time.monotonic())

    def _order(self, copy: Copy) -> Order:
        chunk = self.chunks.get(copy)
        return self.roster.begin(copy) if chunk is None else chunk.order

    def _beginnings(self, stopping: bool) -> int:
        """How many chunks may begin besides those under way."""
        job = self.preparing.job
        placed = {*self.chunks, *(() if job is None else (job.copy,))}
        return 0 if stopping else self.states.tiers.slots - len(placed)

    def _wait(self, limit_s: float) -> None:
        if not self._asked_for():
            soon = self.errands.pending or self.states.tiers.pool.waiting
            self.roster.changed.wait(min(limit_s, _SOON_S) if soon else limit_s)

    def _asked_for(self) -> bool:
        """Whether somebody waits for this thread to look, chunks or not."""
        return self.errands.due or bool(
            self.crossings.due() or any(map(self.showing.ready, self.chunks.values()))
        )

    def _piece_is_next(self, candidates: list[Candidate], free: list[Candidate], now: float) -> bool:
        """`free`: without those that wait for something long, all of which its end lets go on."""
        if self.preparing.job is None:
            return False
        behind = [c for c, each in zip(candidates, free, strict=True) if each.held and may_begin(c)]
        waiting = min(behind, key=lambda c: c.needed_at, default=None)
        return self.preparing.is_next(waiting, self.restarting.works(free, self.chunks), now)

    def _guests_wait_s(self, candidates: list[Candidate], now: float) -> float:
        """Until when no step is begun, for somebody who is about to arrive; 0: one may be."""
        wait_s = self.crossings.wait_s(now)
        return wait_s if wait_s > 0 and self._can_wait(candidates, wait_s, now) else 0.0

    def _preferred(self, candidates: list[Candidate], now: float) -> list[Candidate]:
        """Who has just arrived, and whose chunk a move or an operator waits for, is stepped at once, if the
        others have the time.
        """
        awaited = {copy for copy in self.chunks if copy.frozen or copy in self.states.shelf.awaited}
        keys = {copy.key for copy in awaited | self.crossings.newcomers}
        others = [candidate for candidate in candidates if candidate.key not in keys]
        step_s = max((self.restarting.costs.step_s(c.rung) for c in candidates), default=0.0)
        if not keys or not self._can_wait(others, step_s, now):
            return candidates
        return [c._replace(needed_at=float("-inf")) if c.key in keys else c for c in candidates]

    def _can_wait(self, candidates: list[Candidate], seconds: float, now: float) -> bool:
        """With two steps to spare: who comes has work for the device, too."""
        costs, works = self.restarting.costs, self.restarting.works(candidates, self.chunks)
        spare_s = 2 * max((costs.step_s(candidate.rung) for candidate in candidates), default=0.0)
        return expecting.can_wait(works, seconds + spare_s, now, costs.after_s + APPEND_S)

    def _candidate(self, copy: Copy, chunk: Making | None) -> Candidate:
        """One without a place on the device, where none can be had, has to wait; so has one whose former
        state a move still holds, one whose chunk is parked, and one whose state is still coming: till then
        the device has time for others.
        """
        stepping, shown = (chunk.order, chunk.shown) if chunk else (None, False)
        candidate, states = self.roster.candidate(copy, stepping, shown=shown), self.states
        if chunk is not None and (chunk.parked or not chunk.steps_left):
            return candidate._replace(stepping=False, held=True)
        placed = chunk is not None or states.has_place(copy) or copy is states.shelf.preparing
        placed = placed or states.shelf.room() > 0
        waiting = not placed or states.coming(copy) or states.outdated(copy)
        return candidate._replace(held=True) if waiting else candidate


class Quiet(Later[bool]):
    """An errand that is done once the device may stand still for so long."""

    def __init__(self, planning: Planning, seconds: float) -> None:
        self._planning, self._seconds = planning, seconds

    def poll(self) -> bool | None:
        return self._planning.has_time(self._seconds) or None
