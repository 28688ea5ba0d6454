"""Who may act alone, for a while: a lease is a row, taken and renewed by compare-and-set.

Time is the database's, so that clocks of different machines don't matter. `token` grows with every new
holder.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from shared.store.tables import leases


class Lease(NamedTuple):
    """A lease this process took. It holds until it is released, or somebody else took it after it expired."""

    name: str
    holder: str
    token: int


class LeaseLost(Exception):
    """Somebody else holds the lease now: stop acting."""


class LeaseState(NamedTuple):
    """`holder` "": nobody, it was released. `expires_at` is by the database's clock."""

    holder: str
    token: int
    expires_at: float


class _now(FunctionElement[float]):  # noqa: N801  # reads as the SQL function it is
    """Seconds since the epoch by the database's clock."""

    type = sa.Double()
    inherit_cache = True


@compiles(_now, "sqlite")
def _now_sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_now, "postgresql")
def _now_postgres(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


async def acquire(transaction: AsyncConnection, name: str, holder: str, ttl_s: float) -> Lease | None:
    """Take a lease that is free or has expired. None: somebody else holds it."""
    await _insert_free(transaction, name)
    taking = (
        sa.update(leases)
        .where(leases.c.name == name, leases.c.expires_at < _now())
        .values(holder=holder, token=leases.c.token + 1, expires_at=_now() + ttl_s)
        .returning(leases.c.token)
    )
    token = (await transaction.execute(taking)).scalar()
    return None if token is None else Lease(name, holder, token)


async def _insert_free(transaction: AsyncConnection, name: str) -> None:
    free = sa.select(sa.literal(name), sa.literal(""), sa.literal(0), sa.literal(0.0))
    missing = ~sa.exists().where(leases.c.name == name)
    try:
        async with transaction.begin_nested():
            await transaction.execute(sa.insert(leases).from_select(list(leases.c), free.where(missing)))
    except sa.exc.IntegrityError:
        return  # another process did


async def look(transaction: AsyncConnection, name: str) -> LeaseState | None:
    """Who holds it, None if nobody ever did."""
    asking = sa.select(leases.c.holder, leases.c.token, leases.c.expires_at).where(leases.c.name == name)
    row = (await transaction.execute(asking)).first()
    return None if row is None else LeaseState(*row)


async def renew(transaction: AsyncConnection, lease: Lease, ttl_s: float) -> None:
    """Raises `LeaseLost`. A lease that expired but that nobody took is renewed."""
    renewing = sa.update(leases).where(*_held(lease)).values(expires_at=_now() + ttl_s)
    if not _changed(await transaction.execute(renewing)):
        raise LeaseLost(f"lease {lease.name!r} was taken over")


async def check(transaction: AsyncConnection, lease: Lease) -> None:
    """Raises `LeaseLost` unless the lease is held; until the transaction ends nobody can take it over."""
    held = sa.select(leases.c.token).where(*_held(lease)).with_for_update(read=True)
    if (await transaction.execute(held)).first() is None:
        raise LeaseLost(f"lease {lease.name!r} was taken over")


async def release(transaction: AsyncConnection, lease: Lease) -> None:
    """Let the next one take it at once. Harmless if it was lost."""
    await transaction.execute(sa.update(leases).where(*_held(lease)).values(holder="", expires_at=0.0))


def _held(lease: Lease) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return (leases.c.name == lease.name, leases.c.holder == lease.holder, leases.c.token == lease.token)


def _changed(result: sa.Result[Any]) -> bool:
    return cast("sa.CursorResult[Any]", result).rowcount == 1
