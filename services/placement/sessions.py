"""The sessions that have not ended: their rows in memory and in the store, changed one event at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from services.placement import lifecycle, metrics
from services.placement.events import make_event
from services.placement.facts import Event
from services.placement.lifecycle import TellDrop, TellOwn
from services.placement.live import Live
from services.placement.records import Records, Saving
from services.placement.tally import Tally
from shared.bus import Refused
from shared.contracts.session import Refusal
from shared.store.outbox import OutboxEvent
from shared.store.rows import SessionRow
from shared.store.sessions import Ended


class Changed(NamedTuple):
    """What a change led to. `live` is None once the session has ended. Nothing changed: `row is before`."""

    before: SessionRow | None
    row: SessionRow
    live: Live | None
    commands: tuple[TellOwn | TellDrop, ...] = ()


class _Planned(NamedTuple):
    live: Live
    before: SessionRow
    after: SessionRow
    public: list[OutboxEvent]
    commands: tuple[TellOwn | TellDrop, ...]

    @property
    def saving(self) -> Saving:
        return Saving(self.after, self.before.revision, self.public)


Decide = Callable[[SessionRow], Sequence[Event]]


class Sessions:
    """Everything that is saved passes here, and is counted in `tally`."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.live: dict[str, Live] = {}
        self.ended: dict[str, Ended] = {}
        self.tally = Tally()
        self._doubtful_inserts: set[str] = set()

    async def load(self, ended_since: float) -> None:
        """What was there before this process. Raises `StoreAway`."""
        now = time.time()
        rows, ended = await self.records.load(ended_since)
        for row in rows:
            self._remember(row, now)
        self.ended = {entry.session: entry for entry in ended}

    def _remember(self, row: SessionRow, now: float) -> Live:
        # Viewers have not been heard yet, so a session counts as unwatched from now on; unless it was before.
        live = Live(row, row.unwatched_since if row.paused_by == "unwatched" else now)
        self.live[row.id] = live
        return live

    def of_tenant(self, tenant: str) -> int:
        return sum(live.row.tenant == tenant for live in self.live.values())

    def active_on(self) -> dict[str, int]:
        """Active sessions by worker, those just being placed or moved there included."""
        counts: dict[str, int] = {}
        for live in self.live.values():
            for worker in live.places:
                counts[worker] = counts.get(worker, 0) + 1
        return counts

    async def read(self, session: str) -> SessionRow | None:
        """Any session, ended ones too. Raises `Refused`."""
        live = self.live.get(session)
        return live.known if live is not None else await self.records.get(session)

    async def add(self, row: SessionRow, events: Iterable[Event]) -> Changed:
        """Save a new session, to which `events` happen at once. Raises `Refused`, or `Conflict` (its key)."""
        first = lifecycle.opened(row)
        public = [make_event(name, first.row, "") for name in first.public]
        after, commands = _fold(row, events, public)
        live = Live(after, row.created_at)
        async with live.lock:
            self.live[row.id] = live  # counts as present from now on, so that limits hold
            try:
                await self.records.insert(after, public)
            except BaseException as error:
                del self.live[row.id]
                if isinstance(error, Refused):
                    self._doubtful_inserts.add(row.id)
                raise
        self.tally.opened()
        return Changed(None, after, live, commands)

    async def change(self, live: Live, decide: Decide) -> Changed:
        """Let the events that `decide` names for the row happen. Raises `Refused`."""
        started = time.perf_counter()
        async with live.lock:
            await self._settle(live)
            before = live.known
            public: list[OutboxEvent] = []
            after, commands = _fold(before, decide(before), public)
            if after is before:
                return Changed(before, before, None if before.ended else live)
            live.reserved = after.worker if after.status == "active" else ""
            try:
                await self.records.update(Saving(after, before.revision, public))
            except Refused:
                live.doubtful = True
                raise
            finally:
                live.reserved = ""
            self._saved(live, before, after)
        metrics.decisions.observe(time.perf_counter() - started)
        return Changed(before, after, None if after.ended else live, commands)

    async def change_many(
        self, wanted: Sequence[tuple[Live, Sequence[Event]]], decision: str
    ) -> list[Changed]:
        """What one decision makes of several sessions, in one transaction. One that is being changed at this
        moment, or whose row is not as believed, is left out: the next decision sees it. Raises `Refused`.
        """
        started = time.perf_counter()
        planned: list[_Planned] = []
        async with contextlib.AsyncExitStack() as held:
            for live, events in wanted:
                if live.lock.locked() or live.doubtful:
                    continue
                await held.enter_async_context(live.lock)
                if (plan := _plan(live, events, decision)) is not None:
                    planned.append(plan)
            if not planned:
                return []
            done = await self._save_many(planned)
            for plan in done:
                self._saved(plan.live, plan.before, plan.after)
        metrics.decisions.observe(time.perf_counter() - started)
        return [
            Changed(plan.before, plan.after, None if plan.after.ended else plan.live, plan.commands)
            for plan in done
        ]

    async def _save_many(self, planned: Sequence[_Planned]) -> list[_Planned]:
        """Those that were saved."""
        for plan in planned:
            plan.live.reserved = plan.after.worker if plan.after.status == "active" else ""
        saved: set[str] = set()
        try:
            saved = await self.records.update_many([plan.saving for plan in planned])
        finally:
            for plan in planned:
                plan.live.reserved = ""
                plan.live.doubtful = plan.after.id not in saved
        return [plan for plan in planned if plan.after.id in saved]

    def _saved(self, live: Live, before: SessionRow, after: SessionRow) -> None:
        now = time.monotonic()
        self.tally.changed(before, after, now - live.since_s)
        if after.status != before.status:
            live.since_s = now
        live.row = after
        live.own_tries, live.own_due_at, live.refusals = 0, 0.0, []
        live.stirred.set()
        if after.ended:
            self._end(after)

    def change_ended(self, row: SessionRow, decide: Decide) -> Changed:
        """For a session that has ended: nothing happens to it, or it is refused. Raises `Refused`."""
        after, _ = _fold(row, decide(row), [])
        return Changed(row, after, None)

    def adopt(self, row: SessionRow) -> Live:
        """Take in a row that was saved while its answer got lost."""
        self._doubtful_inserts.discard(row.id)
        return self.live.get(row.id) or self._remember(row, time.time())

    def may_exist(self, session: str) -> bool:
        """Whether the store may hold a session that is not in memory."""
        return session in self._doubtful_inserts

    async def _settle(self, live: Live) -> None:
        """After a save whose outcome is unknown: see what is in the store."""
        if not live.doubtful:
            return
        row = await self.records.get(live.row.id)
        live.doubtful = False
        if row is None:
            self.live.pop(live.row.id, None)
            raise Refused("session_not_found", f"session {live.row.id} was removed from the store")
        live.row = row
        if row.ended:
            self._end(row)

    async def settle_doubtful(self) -> None:
        """Settle all that an absent database left open. Raises `Refused` if it is still away."""
        for live in [live for live in self.live.values() if live.doubtful and not live.lock.locked()]:
            async with live.lock:
                await self._settle(live)
        for session in list(self._doubtful_inserts):
            row = await self.read(session)
            self._doubtful_inserts.discard(session)
            if row is not None and not row.ended:
                self.adopt(row)

    def _end(self, row: SessionRow) -> None:
        self.live.pop(row.id, None)
        self.ended[row.id] = Ended(row.id, row.tenant, row.ended_at or row.updated_at)


def _fold(
    row: SessionRow, events: Iterable[Event], public: list[OutboxEvent]
) -> tuple[SessionRow, tuple[TellOwn | TellDrop, ...]]:
    """The row after all `events`, and the commands of the last one that had any: they are absolute."""
    commands: tuple[TellOwn | TellDrop, ...] = ()
    for event in events:
        step = lifecycle.step(row, event, time.time())
        if isinstance(step, Refusal):
            raise Refused(step.code, step.message, step.hint)
        public += [make_event(name, step.row, row.status) for name in step.public]
        row, commands = step.row, step.commands or commands
    return row, commands


def _plan(live: Live, events: Sequence[Event], decision: str) -> _Planned | None:
    """None: nothing would change, or it may not any more."""
    before, public = live.known, list[OutboxEvent]()
    named = msgspec.structs.replace(before, decision=decision)
    try:
        after, commands = _fold(named, events, public)
    except Refused:
        return None
    return None if after is named else _Planned(live, before, after, public, commands)
