"""Public events waiting to be published: saved together with the change they tell of, so that none is
lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.store.tables import outbox


class OutboxEvent(NamedTuple):
    """`id` is unique for ever and lets the stream drop a repeat; `payload` is the event's JSON."""

    id: str
    subject: str
    payload: bytes


class Waiting(NamedTuple):
    """How far behind publishing is. `oldest_at` None: nothing waits."""

    events: int
    oldest_at: float | None


async def add(transaction: AsyncConnection, events: Sequence[OutboxEvent], now: float) -> None:
    """In the transaction of the change. An event that is there already stays as it is."""
    if events:
        await transaction.execute(
            sa.insert(outbox), [event._asdict() | {"created_at": now} for event in events]
        )


async def unpublished(transaction: AsyncConnection, limit: int) -> list[OutboxEvent]:
    """The oldest first."""
    asking = (
        sa.select(outbox.c.id, outbox.c.subject, outbox.c.payload)
        .where(outbox.c.published_at.is_(None))
        .order_by(outbox.c.sequence)
        .limit(limit)
    )
    return [OutboxEvent(*record) for record in await transaction.execute(asking)]


async def mark_published(transaction: AsyncConnection, ids: Sequence[str], now: float) -> None:
    await transaction.execute(sa.update(outbox).where(outbox.c.id.in_(ids)).values(published_at=now))


async def forget_published(transaction: AsyncConnection, before: float) -> None:
    """Delete events published before `before`."""
    await transaction.execute(sa.delete(outbox).where(outbox.c.published_at < before))


async def waiting(transaction: AsyncConnection) -> Waiting:
    asking = sa.select(sa.func.count(), sa.func.min(outbox.c.created_at)).where(
        outbox.c.published_at.is_(None)
    )
    count, oldest_at = (await transaction.execute(asking)).one()
    return Waiting(count, oldest_at)
