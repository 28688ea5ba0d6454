"""Connecting to the database that a URL names, and transactions that say when it is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.store.migrate import migrate

_RETRY_WAIT_S = 0.5
_BUSY_TIMEOUT_S = 5.0
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_FORMS = "sqlite+aiosqlite:///path/to/file or postgresql+asyncpg://user:password@host:5432/database"
# What a second try can't mend.
_FINAL = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


class StoreError(Exception):
    """The database can't be used as it is set: the message says which one, why, and what to do."""


class StoreAway(Exception):
    """The database doesn't answer now. Nothing is known about the transaction that met this: read before
    deciding again."""


def parse_url(url: str) -> sa.URL:
    """`url` with the driver this project uses. Raises `StoreError`, without repeating a password."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise StoreError(f"the database URL can't be read; use {_FORMS}") from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise StoreError(f"database driver {parsed.drivername!r} is not supported; use {_FORMS}")
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise StoreError("a session must survive its process: name a file, sqlite+aiosqlite:///path/to/file")
    return parsed.set(drivername=driver)


def describe(url: sa.URL) -> str:
    """Which database and where, for messages and logs: never a user's password."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite database {url.database}"
    return f"Postgres database {url.database or ''!r} at {url.host or 'localhost'}:{url.port or 5432}"


class Store:
    """One process's connections to one database. Made by `open_store`; `close` last."""

    def __init__(self, engine: AsyncEngine, timeout_s: float) -> None:
        self.where = describe(engine.url)
        self.single_host = engine.url.get_backend_name() == "sqlite"
        self._engine = engine
        self._timeout_s = timeout_s
        self._closed = False

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, rolled back by an exception, bounded in time. Raises
        `StoreAway`."""
        if self._closed:
            raise StoreAway(f"{self.where} is closed")
        try:
            async with asyncio.timeout(self._timeout_s), self._engine.begin() as transaction:
                yield transaction
        except (IntegrityError, ProgrammingError, DataError):
            raise
        except (DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise StoreAway(f"{self.where} is away: {_reason(error)}") from error

    async def close(self) -> None:
        self._closed = True
        await self._engine.dispose()


async def open_store(url: str, wait_s: float, timeout_s: float = 5.0) -> Store:
    """Connect, trying for `wait_s`, and bring the schema up to date. `timeout_s` bounds each later
    transaction.

    Raises `StoreError`: the URL is wrong, nobody answers there, or a newer version of this project wrote the
    schema.
    """
    parsed = parse_url(url)
    _check_folder(parsed)
    store = Store(_make_engine(parsed, timeout_s), timeout_s)
    try:
        await _wait_until_there(store, wait_s)
        await _migrate(store, wait_s)
    except BaseException:
        await store.close()
        raise
    return store


async def _migrate(store: Store, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s), store.begin() as transaction:
            problem = await transaction.run_sync(migrate)
    except (StoreAway, TimeoutError) as error:
        raise StoreError(f"{store.where}: the schema could not be brought up to date: {error}") from None
    if problem:
        raise StoreError(f"{store.where}: {problem}")


async def _wait_until_there(store: Store, wait_s: float) -> None:
    last = "no answer"
    try:
        async with asyncio.timeout(wait_s):
            while True:
                try:
                    async with store.begin() as transaction:
                        await transaction.execute(sa.select(1))
                    return
                except StoreAway as error:
                    cause = _driver_error(error)
                    if isinstance(cause, _FINAL):
                        raise StoreError(f"{store.where} refused: {_reason(cause)}") from None
                    last = _reason(cause)
                await asyncio.sleep(_RETRY_WAIT_S)
    except TimeoutError:
        raise StoreError(
            f"{store.where} did not answer within {wait_s:g} s ({last}); start it or change the database URL"
        ) from None


def _driver_error(error: BaseException) -> BaseException:
    """What the driver raised, out of SQLAlchemy's wrappers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    cause = _driver_error(error)
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _check_folder(url: sa.URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    file = Path(url.database or "").absolute()
    if not file.parent.is_dir():
        raise StoreError(f"{describe(url)}: the folder {file.parent} does not exist; create it")
    target = file if file.exists() else file.parent
    if not os.access(target, os.R_OK | os.W_OK):
        raise StoreError(f"{describe(url)}: {target} is not writable by this user")


def _make_engine(url: sa.URL, timeout_s: float) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        # One connection: SQLite has one writer at a time anyway, and here it waits in order instead of by
        # polling.
        engine = create_async_engine(
            url, pool_size=1, max_overflow=0, pool_timeout=timeout_s, connect_args={"isolation_level": None}
        )
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    return create_async_engine(
        url,
        pool_size=5,
        max_overflow=5,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        connect_args={"timeout": timeout_s, "command_timeout": timeout_s},
    )


def _set_up_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}",
        "journal_mode = WAL",
        # In WAL mode a power cut may undo the last commits but never corrupts; a killed process loses
        # nothing.
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that read first fails at its first write if another process wrote meanwhile.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
