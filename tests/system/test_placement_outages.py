"""What placement survives: its own death, an absent database or bus, another placement, nonsense."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.js import JetStreamContext

from services.placement.main import main
from shared.bus import NoAnswer, Refused
from shared.contracts.events import CloudEvent, lifecycle_pattern
from shared.contracts.fleet import FleetPlan, WorkerExited
from shared.contracts.subjects import CHUNKS, FLEET_PLAN
from shared.process import EXIT_UNAVAILABLE
from tests.fixtures.fake_worker import CELL
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import START_S, TENANT, StartPlacement, World
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S, until


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'turboserve.sqlite'}"


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[World]:
    async with World(nats_url) as world:
        yield world


async def ended(program: Program) -> int:
    """Its exit status, once it has ended by itself."""
    await until(lambda: not program.running, "the program to end", START_S)
    return program.stop()


async def events_of(nats_url: str, count: int) -> list[CloudEvent]:
    """All public events, once there are `count`."""
    client = await nats.connect(nats_url)
    try:
        jetstream = client.jetstream()
        while f"TS_{CELL}_EVENTS" not in {stream.config.name for stream in await jetstream.streams_info()}:
            await asyncio.sleep(0.05)
        subscription = await jetstream.subscribe(lifecycle_pattern(CELL), ordered_consumer=True)
        found = [await subscription.next_msg(WAIT_S) for _ in range(count)]
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(0.3)
        return [msgspec.json.decode(message.data, type=CloudEvent) for message in found]
    finally:
        await client.close()


async def test_killed_and_started_again_it_keeps_its_sessions_and_their_epochs(
    world: World, start_placement: StartPlacement, sqlite_url: str
) -> None:
    worker = await world.worker("w-1")
    doomed = start_placement(sqlite_url)
    await world.ready(capacity=2)
    kept, gone = await world.open(), await world.open(idempotency_key="k")
    await world.close(gone.id)
    await until(lambda: kept.id in worker.copies, "a copy")
    doomed.kill()
    worker.copies.clear()
    start_placement(sqlite_url)
    await world.ready(capacity=2)
    await until(lambda: kept.id in worker.copies, "the copy again")
    assert worker.copies[kept.id].epoch == 1
    assert [(view.id, view.status) for view in (await world.page()).sessions] == [
        (gone.id, "closed"),
        (kept.id, "active"),
    ]
    assert (await world.open(idempotency_key="k")).id == gone.id


async def test_the_next_one_hears_from_the_autoscaler_who_ended_meanwhile(
    world: World, start_placement: StartPlacement, sqlite_url: str
) -> None:
    gone = await world.worker("w-1")
    doomed = start_placement(sqlite_url)
    await world.ready(capacity=2)
    opened = await world.open()
    await until(lambda: opened.id in gone.copies, "a copy")
    doomed.kill()
    await gone.die()
    other = await world.worker("w-2")
    start_placement(sqlite_url, worker_silent_s=600)
    await world.ready(capacity=2)
    ended = [WorkerExited("w-2", -9, "another-w-2"), WorkerExited("w-1", -9, gone.incarnation)]
    plan = FleetPlan("a-1", 2, 0, 9, "as the test wants it", [], time.time(), ended=ended)
    await world.bus.publish(FLEET_PLAN.at(cell=CELL), plan)
    await other.until_epoch(opened.id, 2)


async def test_events_are_published_once_whatever_was_down(
    fresh_nats: NatsServer, start_placement: StartPlacement, sqlite_url: str
) -> None:
    # Nobody reports while this test starts NATS.
    first = start_placement(sqlite_url, nats=fresh_nats.url, worker_silent_s=60)
    async with World(fresh_nats.url) as world:
        await world.worker("w-1")
        await world.ready(capacity=2)
        opened = await world.open()
        await events_of(fresh_nats.url, 2)
        first.kill()
        second = start_placement(sqlite_url, nats=fresh_nats.url, worker_silent_s=60)
        await world.ready(capacity=2)
        await world.pause(opened.id)
        fresh_nats.kill()
        fresh_nats.start()
        await world.ready(capacity=2)
        await world.close(opened.id)
        events = await events_of(fresh_nats.url, 4)
    assert [event.type.rpartition(".")[2] for event in events] == ["opened", "started", "paused", "closed"]
    assert {event.subject for event in events} == {opened.id}
    assert [event.data.previous_status for event in events] == ["", "queued", "active", "paused"]
    assert second.stop() == 0


async def test_a_second_placement_on_sqlite_refuses_to_start(
    world: World, start_placement: StartPlacement, sqlite_url: str
) -> None:
    first = start_placement(sqlite_url, lease_ttl_s=4)
    await world.ready()
    second = start_placement(sqlite_url, lease_ttl_s=4)
    assert await ended(second) == EXIT_UNAVAILABLE
    assert "another placement" in second.output()
    assert first.running


async def test_on_postgres_a_second_placement_takes_over(
    world: World, start_placement: StartPlacement, fresh_postgres_url: str
) -> None:
    await world.worker("w-1")
    first = start_placement(fresh_postgres_url)
    await world.ready(capacity=2)
    opened, leader = await world.open(), world.loads[-1].placement
    second = start_placement(fresh_postgres_url)
    first.kill()
    await until(lambda: world.loads[-1].placement != leader, "another leader", START_S)
    assert (await world.get(opened.id)).status == "active"
    assert second.stop() == 0


async def test_without_its_database_it_says_so_and_recovers(
    world: World, start_placement: StartPlacement, postgres_server: PostgresServer, fresh_postgres_url: str
) -> None:
    worker = await world.worker("w-1")
    placement = start_placement(fresh_postgres_url, worker_silent_s=60)
    await world.ready(capacity=2)
    opened = await world.open()
    await until(lambda: opened.id in worker.copies, "a copy")
    await asyncio.to_thread(postgres_server.stop)
    with pytest.raises(Refused) as refused:
        await world.open()
    assert refused.value.refusal.code == "store_unavailable"
    with pytest.raises(Refused):
        await world.steer(opened.id, "a blue ball")
    worker.copies.clear()
    await until(lambda: opened.id in worker.copies, "commands without a database")
    postgres_server.start()
    await until_answered(world)
    assert (await world.steer(opened.id, "a blue ball")).inputs_version == 2
    assert placement.stop() == 0


async def until_answered(world: World) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(Refused):
                await world.open()
                return
            await asyncio.sleep(0.05)


async def test_a_session_nobody_watches_is_paused_and_resumed_by_a_viewer(
    world: World, start_placement: StartPlacement, sqlite_url: str
) -> None:
    worker = await world.worker("w-1")
    start_placement(sqlite_url, unwatched_pause_s=0.3)
    await world.ready(capacity=2)
    opened = await world.open()
    paused = await world.until_status(opened.id, "paused")
    assert paused.phase == "unwatched"
    world.changes.clear()
    await world.say_viewers(opened.id, 1, granted_through=6)
    await world.until_status(opened.id, "active")
    await until(lambda: worker.owns[-1].granted_through == 6, "the viewer's credit")


async def test_a_session_nobody_watches_is_closed(
    world: World, start_placement: StartPlacement, sqlite_url: str
) -> None:
    start_placement(sqlite_url, unwatched_close_s=0.3)
    await world.ready()
    opened = await world.open()
    assert (await world.until_status(opened.id, "closed")).phase == "unwatched"


async def test_once_stopped_nobody_answers_and_the_next_takes_up_its_work_at_once(
    world: World, nats_url: str, start_placement: StartPlacement, sqlite_url: str
) -> None:
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    log = f"TS_{CELL}_CHUNKS"
    await jetstream.add_stream(name=log, subjects=[CHUNKS.pattern(cell=CELL)], storage="memory")
    first = start_placement(sqlite_url, lease_ttl_s=60, ended_log_linger_s=2)
    await world.ready()
    ended, other = await world.open(), await world.open()
    for session in (ended, other):
        await jetstream.publish(CHUNKS.at(cell=CELL, tenant=TENANT, session=session.id).subject, b"a chunk")
    await world.close(ended.id)
    assert first.stop() == 0
    with pytest.raises(NoAnswer):
        await world.page()
    start_placement(sqlite_url, lease_ttl_s=60, ended_log_linger_s=2)
    await world.ready()
    await until_messages(jetstream, log, 1)
    left = await jetstream.get_last_msg(log, CHUNKS.pattern(cell=CELL))
    assert left.subject == CHUNKS.at(cell=CELL, tenant=TENANT, session=other.id).subject
    await client.close()


async def until_messages(jetstream: JetStreamContext, stream: str, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await jetstream.stream_info(stream)).state.messages != count:
            await asyncio.sleep(0.01)


async def test_without_a_database_at_start_it_ends_with_a_word(start_placement: StartPlacement) -> None:
    program = start_placement("postgresql+asyncpg://me:secret@127.0.0.1:1/none", database_wait_s=0.1)
    assert await ended(program) == EXIT_UNAVAILABLE
    assert "Postgres database 'none' at 127.0.0.1:1 did not answer" in program.output()
    assert "TURBOSERVE_PLACEMENT_DATABASE_URL" in program.output()
    assert "secret" not in program.output()
    assert "Traceback" not in program.output()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("worker_silent_s", "soon", "--worker-silent-s='soon'"),
        ("models", "sprites,No Model", "'No Model' is not a valid name"),
        ("cell", "a.b", "--cell='a.b'"),
    ],
)
def test_a_mistyped_setting_is_named(
    setting: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main({setting: value}) == 2
    assert said in capsys.readouterr().err
