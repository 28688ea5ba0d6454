"""The store keeps its promises on every database it supports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from shared.contracts.fleet import SetFleet
from shared.contracts.session import Input
from shared.ids import new_session_id
from shared.store import controls, leases, migrate, outbox, sessions
from shared.store.engine import Store, StoreAway, StoreError, open_store, parse_url
from shared.store.leases import Lease, LeaseLost
from shared.store.outbox import OutboxEvent
from shared.store.rows import SessionRow
from shared.store.sessions import Conflict
from shared.store.tables import metadata

MIGRATIONS = Path(migrate.__file__).parent / "migrations"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = await open_store(database_url, wait_s=10)
    yield store
    await store.close()


def make_row(**changes: object) -> SessionRow:
    fields: dict[str, object] = {
        "id": new_session_id("main"),
        "tenant": "default",
        "cell": "main",
        "status": "queued",
        "phase": "waiting",
        "model": "sprites",
        "seed": 2**63 - 1,
        "inputs": [Input("prompt", "a red circle \x00 é 🎈")],
        "created_at": 1_700_000_000.125,
        "updated_at": 1_700_000_000.125,
    }
    return SessionRow(**(fields | changes))  # type: ignore[arg-type]


def test_every_field_of_a_row_is_a_column_at_its_place() -> None:
    assert tuple(metadata.tables["sessions"].columns.keys()) == SessionRow.__struct_fields__


async def test_migrations_make_the_tables_the_code_knows(store: Store) -> None:
    async with store.begin() as transaction:
        differences = await transaction.run_sync(
            lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
        )
    assert differences == []


async def test_sessions_of_before_are_given_the_epoch_they_have(database_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def make_old(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        row = msgspec.to_builtins(make_row(epoch=7)) | {"id": "main_old"}
        old = sa.table(
            "sessions", *(sa.column(name, metadata.tables["sessions"].c[name].type) for name in row)
        )
        for later in ("given_epoch", "priority", "served_rung", "decision"):
            del row[later]
        connection.execute(sa.insert(old).values(**row))

    url = parse_url(database_url)
    engine = create_async_engine(url)
    async with engine.begin() as transaction:
        await transaction.run_sync(make_old)
    await engine.dispose()
    store = await open_store(database_url, wait_s=10)
    async with store.begin() as transaction:
        row = await sessions.get(transaction, "main_old")
    await store.close()
    assert row is not None
    assert (row.epoch, row.given_epoch) == (7, 7)


async def test_a_row_comes_back_as_it_was(store: Store) -> None:
    row = make_row(
        max_chunks=7,
        epoch=3,
        given_epoch=5,
        warnings=["unknown word: zorp"],
        unwatched_since=1.5,
        idempotency_key="k",
    )
    async with store.begin() as transaction:
        await sessions.insert(transaction, row)
    async with store.begin() as transaction:
        assert await sessions.get(transaction, row.id) == row
        assert await sessions.find_by_key(transaction, "default", "k") == row
        assert await sessions.find_by_key(transaction, "other", "k") is None
        assert await sessions.get(transaction, new_session_id("main")) is None


async def test_a_session_and_its_event_are_saved_together_or_not_at_all(store: Store) -> None:
    await _save_with_event(store, make_row(idempotency_key="once"), "e-1")
    with pytest.raises(Conflict):
        await _save_with_event(store, make_row(idempotency_key="once"), "e-2")
    async with store.begin() as transaction:
        assert [event.id for event in await outbox.unpublished(transaction, 10)] == ["e-1"]
        await sessions.insert(transaction, make_row(idempotency_key="once", tenant="other"))
        await sessions.insert(transaction, make_row(idempotency_key=None))
        await sessions.insert(transaction, make_row(idempotency_key=None))


async def _save_with_event(store: Store, row: SessionRow, event_id: str) -> None:
    async with store.begin() as transaction:
        await outbox.add(transaction, [OutboxEvent(event_id, "s", b"{}")], now=1.0)
        await sessions.insert(transaction, row)


async def test_an_update_needs_the_revision_it_was_decided_on(store: Store) -> None:
    row = make_row()
    async with store.begin() as transaction:
        await sessions.insert(transaction, row)
    newer = make_row(id=row.id, revision=2, status="active", worker="w-1", epoch=1)
    async with store.begin() as transaction:
        await sessions.update(transaction, newer, was_revision=1)
    with pytest.raises(Conflict):
        async with store.begin() as transaction:
            await sessions.update(transaction, make_row(id=row.id, revision=2), was_revision=1)
    async with store.begin() as transaction:
        assert await sessions.get(transaction, row.id) == newer


async def test_many_rows_are_saved_at_once_each_over_its_own_revision(store: Store) -> None:
    rows = [make_row(idempotency_key=f"key {n}", priority=n) for n in range(3)]
    async with store.begin() as transaction:
        for row in rows:
            await sessions.insert(transaction, row)
        await sessions.update(transaction, msgspec.structs.replace(rows[1], revision=2), 1)
    owned = {"status": "active", "worker": "w-1", "incarnation": "i-é", "epoch": 1, "given_epoch": 1}
    placed = [
        msgspec.structs.replace(row, **owned, revision=3, updated_at=1_700_000_000.1, unwatched_since=None)
        for row in rows
    ]
    placed[2] = msgspec.structs.replace(
        placed[2], status="closed", ended_at=0.1 + 0.2, idempotency_key=None, granted_through=2**53 + 1
    )
    async with store.begin() as transaction:
        saved = await sessions.save_many(transaction, [(row, 1) for row in placed])
        assert saved == {rows[0].id, rows[2].id}, "another one has changed meanwhile"
        assert await sessions.save_many(transaction, [(row, 1) for row in placed]) == set(), "only once"
        assert await sessions.save_many(transaction, []) == set()
    async with store.begin() as transaction:
        found = [await sessions.get(transaction, row.id) for row in rows]
    assert found == [placed[0], msgspec.structs.replace(rows[1], revision=2), placed[2]]


async def test_pages_run_newest_first_through_equal_times(store: Store) -> None:
    rows = [make_row(created_at=1_000.1 + n // 2) for n in range(7)]
    foreign = make_row(tenant="other")
    ended = make_row(created_at=1.0, status="closed", ended_at=5.0)
    async with store.begin() as transaction:
        for row in [*rows, foreign, ended]:
            await sessions.insert(transaction, row)
    expected = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
    seen: list[SessionRow] = []
    cursor = ""
    async with store.begin() as transaction:
        for _ in range(3):
            page = await sessions.page(transaction, "default", limit=3, cursor=cursor)
            seen += page.rows
            cursor = page.cursor
        assert cursor == ""
        assert seen == [*expected, ended]
        assert len((await sessions.page(transaction, "default", 50, live_only=True)).rows) == 7
        assert {row.id for row in await sessions.live(transaction, "main")} == {
            row.id for row in [*rows, foreign]
        }
        assert [e.session for e in await sessions.ended_since(transaction, "main", 4.0)] == [ended.id]
        assert await sessions.ended_since(transaction, "main", 6.0) == []


@pytest.mark.parametrize("cursor", ["x", "zz~main_x", "0x1p+0~\0"])
async def test_a_foreign_cursor_is_an_error(store: Store, cursor: str) -> None:
    async with store.begin() as transaction:
        with pytest.raises(ValueError):  # noqa: PT011  # which one it is depends on the cursor
            await sessions.page(transaction, "default", limit=3, cursor=cursor)


async def test_events_wait_in_order_until_they_are_published(store: Store) -> None:
    events = [OutboxEvent(f"e-{n}", "ts.main.events.default.opened", b"\x00" + bytes([n])) for n in range(5)]
    async with store.begin() as transaction:
        await outbox.add(transaction, events[:3], now=1.0)
        await outbox.add(transaction, events[3:], now=2.0)
    async with store.begin() as transaction:
        assert await outbox.unpublished(transaction, limit=4) == events[:4]
        await outbox.mark_published(transaction, ["e-0", "e-1"], now=3.0)
        assert await outbox.unpublished(transaction, limit=9) == events[2:]
        assert await outbox.waiting(transaction) == (3, 1.0)
        await outbox.forget_published(transaction, before=4.0)
        left = await transaction.scalar(sa.select(sa.func.count()).select_from(metadata.tables["outbox"]))
        assert left == 3


async def test_a_lease_has_one_holder_at_a_time(store: Store) -> None:
    async with store.begin() as transaction:
        first = await leases.acquire(transaction, "placement", "p-1", ttl_s=60)
        assert first == Lease("placement", "p-1", 1)
        assert await leases.acquire(transaction, "placement", "p-2", ttl_s=60) is None
        assert await leases.acquire(transaction, "other", "p-2", ttl_s=60) is not None
        taken = await leases.look(transaction, "placement")
        await leases.renew(transaction, first, ttl_s=90)
        renewed = await leases.look(transaction, "placement")
        assert taken is not None
        assert renewed is not None
        assert (taken.holder, taken.token) == (renewed.holder, renewed.token) == ("p-1", 1)
        assert 29 < renewed.expires_at - taken.expires_at < 60


async def test_an_expired_lease_is_taken_over_and_fences_the_old_holder(store: Store) -> None:
    async with store.begin() as transaction:
        first = await leases.acquire(transaction, "placement", "p-1", ttl_s=-1)
        assert first is not None
        await leases.check(transaction, first)
    async with store.begin() as transaction:
        second = await leases.acquire(transaction, "placement", "p-2", ttl_s=60)
        assert second is not None
        assert second.token == first.token + 1
        with pytest.raises(LeaseLost):
            await leases.renew(transaction, first, ttl_s=60)
        with pytest.raises(LeaseLost):
            await leases.check(transaction, first)
        await leases.release(transaction, first)
        await leases.check(transaction, second)
        await leases.release(transaction, second)
        assert await leases.acquire(transaction, "placement", "p-3", ttl_s=60) is not None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+asyncpg://me:secret@127.0.0.1:1/none", "Postgres database 'none' at 127.0.0.1:1"),
        ("postgresql+psycopg://me:secret@127.0.0.1/none", "postgresql+asyncpg://"),
        ("mysql://me:secret@127.0.0.1/none", "'mysql'"),
        ("sqlite+aiosqlite:////nowhere/at/all.sqlite", "/nowhere/at does not exist"),
        ("sqlite://", "name a file"),
        ("nonsense:secret", "can't be read"),
    ],
)
async def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str, said: str) -> None:
    with pytest.raises(StoreError) as refused:
        await open_store(url, wait_s=0.2)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_a_refusing_server_is_not_tried_again(postgres_url: str) -> None:
    with pytest.raises(StoreError, match=r"refused.*does not exist"):
        await open_store(postgres_url + "_that_is_not_there", wait_s=3600)


async def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is prose, and long enough to be read as a header" * 10)
    with pytest.raises(StoreError, match="not a database"):
        await open_store(f"sqlite:///{tmp_path / 'notes.txt'}", wait_s=0.2)


async def test_a_schema_from_the_future_is_left_alone(store: Store, database_url: str) -> None:
    async with store.begin() as transaction:
        await transaction.execute(sa.text("UPDATE alembic_version SET version_num = 'f00'"))
    with pytest.raises(StoreError, match=r"'f00' is newer .* upgrade turboserve"):
        await open_store(database_url, wait_s=10)


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreAway):
        await store.begin().__aenter__()


async def test_opening_twice_changes_nothing(store: Store, database_url: str) -> None:
    row = make_row()
    async with store.begin() as transaction:
        await sessions.insert(transaction, row)
    again = await open_store(database_url, wait_s=10)
    async with again.begin() as transaction:
        assert await sessions.get(transaction, row.id) == row
    await again.close()


async def test_what_operators_set_adds_up_for_each_cell(store: Store) -> None:
    async with store.begin() as transaction:
        assert await controls.read(transaction, "main") == SetFleet()
        await controls.write(transaction, "main", SetFleet(minimum=1, frozen=True))
        await controls.write(transaction, "east", SetFleet(maximum=9))
    async with store.begin() as transaction:
        await controls.write(transaction, "main", SetFleet(frozen=False, spare=0))
    async with store.begin() as transaction:
        assert await controls.read(transaction, "main") == SetFleet(minimum=1, spare=0, frozen=False)
        assert await controls.read(transaction, "east") == SetFleet(maximum=9)
