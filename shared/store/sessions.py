"""Reading and writing sessions' rows. Placement is the only writer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy import Update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.session import LIVE, cursor_after
from shared.store.rows import SessionRow
from shared.store.tables import sessions


class Conflict(Exception):
    """The row is not as the caller believes: another revision, or an id or idempotency key that exists
    already."""


class Page(NamedTuple):
    """`cursor` "" means there is no further page."""

    rows: list[SessionRow]
    cursor: str


class Ended(NamedTuple):
    session: str
    tenant: str
    ended_at: float


def _from_record(record: sa.Row[Any]) -> SessionRow:
    return msgspec.convert(dict(zip(SessionRow.__struct_fields__, record, strict=True)), SessionRow)


async def insert(transaction: AsyncConnection, row: SessionRow) -> None:
    """Raises `Conflict` if the tenant used the row's idempotency key before; the transaction is then of no
    use."""
    try:
        await transaction.execute(sa.insert(sessions).values(**msgspec.to_builtins(row)))
    except IntegrityError as error:
        raise Conflict(f"session {row.id}: {error.orig}") from None


async def update(transaction: AsyncConnection, row: SessionRow, was_revision: int) -> None:
    """Save `row` over the one with `was_revision`. Raises `Conflict` if the row has another revision."""
    values = msgspec.to_builtins(row)
    guarded = sa.update(sessions).where(sessions.c.id == row.id, sessions.c.revision == was_revision)
    result = await transaction.execute(guarded.values(**values))
    if cast("sa.CursorResult[Any]", result).rowcount != 1:
        raise Conflict(f"session {row.id} is not at revision {was_revision} any more")


DECIDED: frozenset[str] = frozenset(
    "status phase updated_at revision epoch given_epoch next_chunk worker incarnation reason granted_through "
    "failures paused_by unwatched_since ended_at idempotency_key served_rung decision".split()
)
"""What a decision changes of a row."""


async def save_many(transaction: AsyncConnection, changes: Sequence[tuple[SessionRow, int]]) -> set[str]:
    """Save the `DECIDED` columns of many rows, each over the one with the revision beside it, by one
    statement. The ids of those that had that revision; the others are left as they are.
    """
    if not changes:
        return set()
    given = [
        {name: value for name, value in msgspec.to_builtins(row).items() if name in DECIDED}
        | {"id": row.id, "was_revision": was_revision}
        for row, was_revision in changes
    ]
    build = _update_on_sqlite if transaction.dialect.name == "sqlite" else _update_on_postgres
    result = await transaction.execute(build(), {"changes": msgspec.json.encode(given).decode()})
    return set(result.scalars())


_GIVEN: tuple[sa.Column[Any], ...] = tuple(sessions.c[name] for name in sorted(DECIDED))


@functools.cache
def _update_on_postgres() -> Update:
    columns = [sa.column(column.name, column.type) for column in (sessions.c.id, *_GIVEN)]
    given = (
        sa.func.json_to_recordset(sa.cast(sa.bindparam("changes", type_=sa.Text), sa.JSON))
        .table_valued(*columns, sa.column("was_revision", sa.BigInteger), name="given")
        .render_derived(with_types=True)
    )
    keys = {name: given.c[name] for name in ("id", "was_revision")}
    return _guarded(keys, {column.name: given.c[column.name] for column in _GIVEN})


@functools.cache
def _update_on_sqlite() -> Update:
    each = sa.func.json_each(sa.bindparam("changes", type_=sa.Text)).table_valued("value", name="given")

    def field(name: str) -> sa.ColumnElement[Any]:
        return sa.func.json_extract(each.c.value, f"$.{name}")

    keys = {"id": field("id"), "was_revision": field("was_revision")}
    return _guarded(keys, {column.name: field(column.name) for column in _GIVEN})


def _guarded(keys: Mapping[str, sa.ColumnElement[Any]], values: dict[str, sa.ColumnElement[Any]]) -> Update:
    same = sa.and_(sessions.c.id == keys["id"], sessions.c.revision == keys["was_revision"])
    return sa.update(sessions).where(same).values(**values).returning(sessions.c.id)


async def get(transaction: AsyncConnection, session: str) -> SessionRow | None:
    record = (await transaction.execute(sa.select(sessions).where(sessions.c.id == session))).first()
    return None if record is None else _from_record(record)


async def find_by_key(transaction: AsyncConnection, tenant: str, idempotency_key: str) -> SessionRow | None:
    asking = sa.select(sessions).where(
        sessions.c.tenant == tenant, sessions.c.idempotency_key == idempotency_key
    )
    record = (await transaction.execute(asking)).first()
    return None if record is None else _from_record(record)


async def live(transaction: AsyncConnection, cell: str) -> list[SessionRow]:
    """Every session of the cell that has not ended, oldest first."""
    asking = (
        sa.select(sessions)
        .where(sessions.c.ended_at.is_(None), sessions.c.cell == cell)
        .order_by(sessions.c.created_at, sessions.c.id)
    )
    return [_from_record(record) for record in await transaction.execute(asking)]


async def ended_since(transaction: AsyncConnection, cell: str, since: float) -> list[Ended]:
    """Sessions of the cell that ended after `since` (seconds since the epoch)."""
    asking = (
        sa.select(sessions.c.id, sessions.c.tenant, sessions.c.ended_at)
        .where(sessions.c.ended_at > since, sessions.c.cell == cell)
        .order_by(sessions.c.ended_at)
    )
    return [Ended(*record) for record in await transaction.execute(asking)]


async def page(
    transaction: AsyncConnection, tenant: str, limit: int, cursor: str = "", live_only: bool = False
) -> Page:
    """A tenant's sessions, newest first. Raises `ValueError` for a cursor that no page gave."""
    asking = sa.select(sessions).where(sessions.c.tenant == tenant)
    if live_only:
        asking = asking.where(sessions.c.status.in_(sorted(LIVE)))
    if cursor:
        asking = asking.where(
            sa.tuple_(sessions.c.created_at, sessions.c.id) < sa.tuple_(*_parse_cursor(cursor))
        )
    asking = asking.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()).limit(limit + 1)
    rows = [_from_record(record) for record in await transaction.execute(asking)]
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    return Page(rows[:limit], cursor_after(last.created_at, last.id) if last else "")


def _parse_cursor(cursor: str) -> tuple[sa.ColumnElement[float], sa.ColumnElement[str]]:
    created_at, separator, session = cursor.partition("~")
    if not separator or "\0" in session:
        raise ValueError(f"{cursor[:80]!r} is not a cursor that a page gave")
    return sa.literal(float.fromhex(created_at), sa.Double), sa.literal(session, sa.Text)
