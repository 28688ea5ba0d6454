"""Sessions that are resumed elsewhere than where their state is: it is brought there, and they go on.

A suspended state first comes to its home's device, one at a time, while other moves have the links. A few at
once, each for a short time. Whatever fails is told to the policy: it places the session again, at
home if there is room, else without its state, which is rebuilt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from services.placement import homes, metrics
from services.placement.live import Live, in_trace_of
from services.placement.lookout import Seen
from services.placement.moves import BUSY, Wanted
from services.placement.phases import timed
from services.placement.policies.view import Decision, Place
from services.placement.sessions import Changed
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.fleet import LoadReport, PhaseTime
from shared.store.rows import SessionRow

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 16
_BACK_OFF_S = 5.0
_REBUILD_S = 0.5
"""What a hand-over in vain costs besides its own time."""


class Carried(NamedTuple):
    """`outcome` as in `SessionMoved`, so far, or "busy": its turn didn't come, "refused": it may not be, or
    not to there, "unwanted": it ended meanwhile. `phases`: what it took, in order. `fetched_s`: what of it
    would have been needed at home as well.
    """

    outcome: str
    phases: list[PhaseTime]
    fetched_s: float = 0.0


class Sources(NamedTuple):
    """`homes`: from where sessions that a decision places elsewhere are handed over. `later`: those that
    could be too, but are too many: they are left to the next decision, which sees that.
    """

    homes: dict[str, str]
    later: frozenset[str] = frozenset()


class Resumes:
    """For `Ticks`, which begins them."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._tasks: dict[str, asyncio.Task[Carried]] = {}
        self._sessions_later: dict[str, float] = {}
        self._homes_later: dict[str, float] = {}

    def able(self, live: Live, now: float) -> bool:
        """Whether one of it may begin, as far as those before it tell."""
        rested = self._sessions_later.get(live.row.id, now) <= now
        return rested and live.move is None and len(self._tasks) < MAX_AT_ONCE

    def holding(self, now: float) -> frozenset[str]:
        """Workers that just failed to give away a session."""
        return frozenset(home for home, until in self._homes_later.items() if until > now)

    def sources(self, decision: Decision, seen: Seen) -> Sources:
        targets = {act.session: act.worker for act in decision.acts if isinstance(act, Place)}
        if not targets:
            return Sources({})
        now, found = time.monotonic(), dict[str, str]()
        reports = {report.worker: report for report in self._placement.reports()}
        for one in seen.view.sessions:
            target = targets.get(one.session, one.home)
            if target != one.home and self._from(seen.lives[one.session], one.home, target, reports, now):
                found[one.session] = one.home
        first = dict(list(found.items())[: MAX_AT_ONCE - len(self._tasks)])
        return Sources(first, frozenset(found.keys() - first.keys()))

    def _from(
        self, live: Live, home: str, target: str, reports: Mapping[str, LoadReport], now: float
    ) -> bool:
        if home in self.holding(now) or not self.able(live, now):
            return False
        copy = self._placement.fleet.copy(home, live.row.id)
        return homes.can_give(live.row, copy) and homes.may_go(live.row, home, target, reports)

    def begin(self, live: Live, wanted: Wanted) -> None:
        """Its row is queued by now, and the target's epoch given."""
        session = live.row.id
        now = time.monotonic()
        self._sessions_later = {s: until for s, until in self._sessions_later.items() if until > now}
        self._homes_later = {home: until for home, until in self._homes_later.items() if until > now}
        live.coming_to = wanted.to
        self._tasks[session] = asyncio.create_task(self._carry(live, wanted), name=f"resume {session}")

    async def arrived(self, session: str, within_s: float) -> Carried | None:
        """What came of it; None: none is under way, or the time is up."""
        task = self._tasks.get(session)
        if task is None:
            return None
        await asyncio.wait({task}, timeout=within_s)
        return task.result() if task.done() and not task.cancelled() else None

    async def _carry(self, live: Live, wanted: Wanted) -> Carried:
        began_at, session, home = time.monotonic(), live.row.id, wanted.home
        carried = Carried("stayed", [])
        try:
            with in_trace_of(live):
                within_s = self._placement.settings.resume_s
                carried = await self._carried(live, wanted._replace(until=began_at + within_s))
        except Refused as refused:
            carried = Carried("busy" if refused.refusal.code in BUSY else "refused", [])
            logger.info("not handed over: %s", refused, extra={"session": session, "worker": home})
        except (NoAnswer, BusAway) as error:
            logger.info("not handed over: %s", error, extra={"session": session, "worker": home})
        except Exception:
            logger.exception("a hand-over failed", extra={"session": session, "worker": home})
        finally:
            live.coming_to = ""
            self._tasks.pop(session, None)
            self._note(session, home, carried, time.monotonic() - began_at)
            self._placement.ticks.stir()
        return carried

    async def _carried(self, live: Live, wanted: Wanted) -> Carried:
        """Raises `Refused`, `NoAnswer` or `BusAway`."""
        phases: list[PhaseTime] = []
        fetched_s = await self._fetched_s(live, wanted, phases)
        run = await self._placement.mover.hand_over(live, wanted)
        outcome = run.outcome
        if live.row.ended:
            outcome = "unwanted"
        elif outcome == "stayed" and not run.ordered:  # by its target's fault
            outcome = "refused"
        return Carried(outcome, [*phases, *run.phases], fetched_s + run.fetched_s)

    async def _fetched_s(self, live: Live, wanted: Wanted, phases: list[PhaseTime]) -> float:
        """How long a suspended state took to its home's device, its turn not included. 0: it is there. Raises
        as `_carried` does.
        """
        placement, home = self._placement, wanted.home
        copy = placement.fleet.copy(home, live.row.id)
        if copy is None or copy.tier != "host":
            return 0.0
        with timed(phases, "fetch"):
            async with placement.mover.turn(f"at {home}", wanted.left_s()):
                began_at = time.monotonic()
                within_s = min(placement.settings.command_timeout_s, wanted.left_s())
                await placement.voice.ask_stow(homes.owned_by(live.row, home), "device", within_s)
                return time.monotonic() - began_at

    def _note(self, session: str, home: str, carried: Carried, took_s: float) -> None:
        tally, outcome, now_s = self._placement.sessions.tally, carried.outcome, time.monotonic()
        if outcome == "moved":
            metrics.resumes.labels("handed_over").inc()
            metrics.resume_hand_over_s.observe(took_s)
            tally.went_away(max(0.0, took_s - carried.fetched_s), now_s)
            return
        if outcome == "unwanted":
            return
        if outcome != "refused":
            tally.went_away(took_s + _REBUILD_S, now_s)
        if outcome == "placed":
            metrics.resumes.labels("rebuilt").inc()
            return
        until = now_s + _BACK_OFF_S
        self._sessions_later[session] = until
        if outcome == "stayed":
            self._homes_later[home] = until

    def count(self, changes: Sequence[Changed]) -> None:
        """Of what a decision changed at once: sessions that go on, without any hand-over."""
        for before, row, _, _ in changes:
            if before is None or row.status != "active" or before.status == "active":
                continue
            if before.epoch and before.phase != "recovering":
                at_home = row.epoch == before.epoch or self._has_state(row)
                metrics.resumes.labels("home" if at_home else "rebuilt").inc()

    def _has_state(self, row: SessionRow) -> bool:
        copy = self._placement.fleet.copy(row.worker, row.id)
        return homes.can_give(msgspec.structs.replace(row, epoch=copy.epoch), copy) if copy else False

    async def close(self) -> None:
        """What is under way goes on between its workers; the next placement sees what became of it."""
        tasks = set(self._tasks.values())
        for task in tasks:
            task.cancel()
        with contextlib.suppress(ValueError):
            await asyncio.wait(tasks, timeout=1.0)
