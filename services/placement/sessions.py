"""The sessions that have not ended: their rows in memory and in the store, changed one event at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from opentelemetry import context
from sqlalchemy.ext.asyncio import AsyncConnection

from services.placement import lifecycle, metrics
from services.placement.events import make_event
from services.placement.facts import Event
from services.placement.hand_over import Ongoing
from services.placement.lifecycle import TellDrop, TellOwn
from services.placement.viewers import Viewers
from shared import telemetry
from shared.bus import Refused
from shared.contracts.session import Refusal
from shared.store import leases, outbox, sessions
from shared.store.engine import Store, StoreAway
from shared.store.leases import Lease, LeaseLost
from shared.store.outbox import OutboxEvent
from shared.store.rows import SessionRow
from shared.store.sessions import Conflict

logger = logging.getLogger(__name__)


class Live:
    """A session in memory: its row as saved, and what is known beyond it.

    `move`: the one under way, with `stirred` set whenever something was heard of it. `next_chunk` comes from
    reports. `unwatched_since` None: somebody watches. `reserved` names the worker it
    is being placed on while that is saved. `doubtful`: a save met an absent database, so the row must be read
    before it counts. `own_tries` and `refusals` (their codes) are of the row's last change; `own_due_at` is
    on the steady clock.
    """

    def __init__(self, row: SessionRow, unwatched_since: float | None) -> None:
        self.row = row
        self.lock = asyncio.Lock()
        self.viewers = Viewers(row.granted_through)
        self.next_chunk = row.next_chunk
        self.unwatched_since = unwatched_since
        self.reserved = ""
        self.doubtful = False
        self.move: Ongoing | None = None
        self.stirred = asyncio.Event()
        self.own_tries = 0
        self.own_due_at = 0.0
        self.refusals: list[str] = []

    @property
    def move_id(self) -> str:
        """Of the move by which the owner has the session, until that is proven."""
        return self.move.move.move_id if self.move is not None and self.move.committed(self.row) else ""

    @property
    def places(self) -> set[str]:
        """Workers on which it takes an active session's room: its owner, and both sides of a move."""
        owners = {self.reserved or (self.row.worker if self.row.status == "active" else "")}
        if self.move is not None and self.row.status == "active":
            owners |= {self.move.move.target} | (set() if self.move.answered else {self.move.move.source})
        return owners - {""}

    @property
    def known(self) -> SessionRow:
        """The row with the newest counters."""
        return msgspec.structs.replace(
            self.row,
            next_chunk=max(self.row.next_chunk, self.next_chunk),
            granted_through=max(self.row.granted_through, self.viewers.granted_through),
        )


@contextlib.contextmanager
def in_trace_of(live: Live) -> Iterator[None]:
    """What happens to a session by itself belongs to the trace it was opened in."""
    token = context.attach(telemetry.extract({"traceparent": live.row.traceparent}))
    try:
        yield
    finally:
        context.detach(token)


class Changed(NamedTuple):
    """What a change led to. `live` is None once the session has ended. Nothing changed: `row is before`."""

    before: SessionRow | None
    row: SessionRow
    live: Live | None
    commands: tuple[TellOwn | TellDrop, ...] = ()


Decide = Callable[[SessionRow], Sequence[Event]]


class Sessions:
    """Everything that is saved passes here. `on_lease_lost` is called when another placement leads."""

    def __init__(self, store: Store, lease: Lease, cell: str, on_lease_lost: Callable[[], None]) -> None:
        self.live: dict[str, Live] = {}
        self.ended: dict[str, sessions.Ended] = {}
        self._store = store
        self._lease = lease
        self._cell = cell
        self._on_lease_lost = on_lease_lost
        self._doubtful_inserts: set[str] = set()

    async def load(self, ended_since: float) -> None:
        """What was there before this process. Raises `StoreAway`."""
        now = time.time()
        async with self._store.begin() as transaction:
            rows = await sessions.live(transaction, self._cell)
            ended = await sessions.ended_since(transaction, self._cell, ended_since)
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

    def queued(self) -> list[SessionRow]:
        """Oldest first."""
        rows = (live.row for live in self.live.values() if live.row.status == "queued" and not live.reserved)
        return sorted(rows, key=lambda row: (row.created_at, row.id))

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
        if live is not None:
            return live.known
        try:
            async with self._store.begin() as transaction:
                return await sessions.get(transaction, session)
        except StoreAway as error:
            raise unavailable(error) from None

    async def find_by_key(self, tenant: str, key: str) -> SessionRow | None:
        try:
            async with self._store.begin() as transaction:
                return await sessions.find_by_key(transaction, tenant, key)
        except StoreAway as error:
            raise unavailable(error) from None

    async def page(self, tenant: str, limit: int, cursor: str, live_only: bool) -> sessions.Page:
        """Raises `Refused`, or `ValueError` for a cursor that no page gave."""
        try:
            async with self._store.begin() as transaction:
                return await sessions.page(transaction, tenant, limit, cursor, live_only)
        except StoreAway as error:
            raise unavailable(error) from None

    async def add(self, row: SessionRow, events: Iterable[Event]) -> Changed:
        """Save a new session, to which `events` happen at once. Raises `Refused`, or `Conflict` (its key)."""
        first = lifecycle.opened(row)
        public = [make_event(name, first.row, "") for name in first.public]
        after, commands = _fold(row, events, public)
        live = Live(after, row.created_at)
        async with live.lock:
            self.live[row.id] = live  # counts as present from now on, so that limits hold
            try:
                await self._insert(after, public)
            except BaseException:
                del self.live[row.id]
                raise
        return Changed(None, after, live, commands)

    async def _insert(self, row: SessionRow, public: list[OutboxEvent]) -> None:
        try:
            async with self._saving() as transaction:
                await sessions.insert(transaction, row)
                await outbox.add(transaction, public, row.updated_at)
        except StoreAway as error:
            self._doubtful_inserts.add(row.id)
            raise unavailable(error) from None

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
                await self._update(live, before, after, public)
            finally:
                live.reserved = ""
            live.row = after
            live.own_tries, live.own_due_at, live.refusals = 0, 0.0, []
            live.stirred.set()
        metrics.decisions.observe(time.perf_counter() - started)
        if after.ended:
            self._end(after)
        return Changed(before, after, None if after.ended else live, commands)

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

    async def _update(
        self, live: Live, before: SessionRow, after: SessionRow, public: list[OutboxEvent]
    ) -> None:
        try:
            async with self._saving() as transaction:
                await sessions.update(transaction, after, before.revision)
                await outbox.add(transaction, public, after.updated_at)
        except (StoreAway, Conflict) as error:
            live.doubtful = True
            raise unavailable(error) from None

    @contextlib.asynccontextmanager
    async def _saving(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only the leader can complete."""
        with telemetry.tracer.start_as_current_span("placement.save"):
            async with self._store.begin() as transaction:
                try:
                    await leases.check(transaction, self._lease)
                except LeaseLost:
                    self._on_lease_lost()
                    raise Refused("busy", "another placement leads now", "try again in a moment") from None
                yield transaction

    async def _settle(self, live: Live) -> None:
        """After a save whose outcome is unknown: see what is in the store."""
        if not live.doubtful:
            return
        try:
            async with self._store.begin() as transaction:
                row = await sessions.get(transaction, live.row.id)
        except StoreAway as error:
            raise unavailable(error) from None
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
        self.ended[row.id] = sessions.Ended(row.id, row.tenant, row.ended_at or row.updated_at)


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


def unavailable(error: Exception) -> Refused:
    """For its users, who need not know where the database is; the log says that."""
    logger.info("%s", error)
    message = "sessions can't be read or saved at the moment"
    return Refused("store_unavailable", message, "try again in a moment")
