"""The sessions' rows in the store, as their only writer reads and saves them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from shared import telemetry
from shared.bus import Refused
from shared.store import leases, outbox, sessions
from shared.store.engine import Store, StoreAway
from shared.store.leases import Lease, LeaseLost
from shared.store.outbox import OutboxEvent
from shared.store.rows import SessionRow
from shared.store.sessions import Conflict

logger = logging.getLogger(__name__)


class Saving(NamedTuple):
    """A row over the one with `was_revision`, and what it tells the world."""

    row: SessionRow
    was_revision: int
    public: list[OutboxEvent]


class Records:
    """Everything raises `Refused` while the store is away: then nothing is known of what was being saved.

    `on_lease_lost` is called when another placement leads.
    """

    def __init__(self, store: Store, lease: Lease, cell: str, on_lease_lost: Callable[[], None]) -> None:
        self._store = store
        self._lease = lease
        self._cell = cell
        self._on_lease_lost = on_lease_lost

    async def load(self, ended_since: float) -> tuple[list[SessionRow], list[sessions.Ended]]:
        """Sessions that have not ended, and those that ended since. Raises `StoreAway`."""
        async with self._store.begin() as transaction:
            rows = await sessions.live(transaction, self._cell)
            return rows, await sessions.ended_since(transaction, self._cell, ended_since)

    async def get(self, session: str) -> SessionRow | None:
        with _refusing():
            async with self._store.begin() as transaction:
                return await sessions.get(transaction, session)

    async def find_by_key(self, tenant: str, key: str) -> SessionRow | None:
        with _refusing():
            async with self._store.begin() as transaction:
                return await sessions.find_by_key(transaction, tenant, key)

    async def page(self, tenant: str, limit: int, cursor: str, live_only: bool) -> sessions.Page:
        """Also raises `ValueError` for a cursor that no page gave."""
        with _refusing():
            async with self._store.begin() as transaction:
                return await sessions.page(transaction, tenant, limit, cursor, live_only)

    async def insert(self, row: SessionRow, public: list[OutboxEvent]) -> None:
        """Also raises `Conflict`: its idempotency key was used before."""
        with _refusing():
            async with self._saving() as transaction:
                await sessions.insert(transaction, row)
                await outbox.add(transaction, public, row.updated_at)

    async def update(self, saving: Saving) -> None:
        with _refusing((StoreAway, Conflict)):
            async with self._saving() as transaction:
                await sessions.update(transaction, saving.row, saving.was_revision)
                await outbox.add(transaction, saving.public, saving.row.updated_at)

    async def update_many(self, savings: Sequence[Saving]) -> set[str]:
        """By one statement; the ids of those that had the revision that was thought."""
        with _refusing():
            async with self._saving() as transaction:
                found = await sessions.save_many(
                    transaction, [(one.row, one.was_revision) for one in savings]
                )
                saved = [one for one in savings if one.row.id in found]
                events = [event for one in saved for event in one.public]
                if saved:
                    await outbox.add(transaction, events, saved[0].row.updated_at)
        return found

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


@contextlib.contextmanager
def _refusing(errors: tuple[type[Exception], ...] = (StoreAway,)) -> Iterator[None]:
    """For users, who need not know where the database is; the log says that."""
    try:
        yield
    except errors as error:
        logger.info("%s", error)
        message = "sessions can't be read or saved at the moment"
        raise Refused("store_unavailable", message, "try again in a moment") from None
