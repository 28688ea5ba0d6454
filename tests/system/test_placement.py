"""The placement process on a real bus and database, with workers that speak the wire."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import nats
import pytest

from shared import codec
from shared.bus import ERROR_HEADER, Refused
from shared.contracts.fleet import LoadReport
from shared.contracts.session import Refusal, SessionView
from shared.contracts.subjects import ALL, LOAD_REPORT, OPEN
from tests.fixtures.fake_worker import CELL
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import TENANT, World, placement_program
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S, until


@pytest.fixture(scope="module")
def placement(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One for all tests here; those that end one have their own."""
    folder = tmp_path_factory.mktemp("placement")
    url = f"sqlite+aiosqlite:///{folder / 'db.sqlite'}"
    program = placement_program(nats_server.url, url, folder, worker_silent_s=3)
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def world(nats_server: NatsServer, placement: Program) -> AsyncIterator[World]:
    async with World(nats_server.url) as world:
        yield world
        await world.clear()


async def test_a_session_from_opening_to_closing(world: World) -> None:
    worker = await world.worker("w-1")
    await world.ready(capacity=2)
    opened = await world.open("a red zorp", seed=7, max_chunks=50, rung="low")
    assert (opened.status, opened.worker, opened.epoch) == ("active", "w-1", 1)
    assert opened.warnings == ["unknown word: zorp"]
    await until(lambda: opened.id in worker.copies, "a copy")
    own = worker.owns[0]
    assert (own.epoch, own.seed, own.max_chunks, own.rung, own.paused) == (1, 7, 50, "low", False)

    def told() -> list[str]:
        return [view.phase for view in world.changes if view.id == opened.id]

    await worker.set_copy(opened.id, state="encoding")
    await until(lambda: told()[-1] == "encoding", "viewers who know what it waits for")
    assert (await world.get(opened.id)).phase == "encoding"
    await worker.set_copy(opened.id, state="running")
    await until(lambda: told()[-1] == "running", "viewers who know that it goes on")

    await worker.set_copy(opened.id, next_chunk=5)
    steered = await world.steer(opened.id, "a blue ball")
    assert (steered.from_chunk, steered.inputs_version) == (5, 2)
    paused = await world.pause(opened.id)
    assert (paused.status, paused.phase, paused.next_chunk) == ("paused", "user", 5)
    assert await world.pause(opened.id) == paused
    await worker.until_copy(opened.id, state="paused")
    resumed = await world.resume(opened.id)
    assert (resumed.status, resumed.worker, resumed.epoch) == ("active", "w-1", 1)
    assert await world.resume(opened.id) == resumed
    await worker.until_copy(opened.id, state="running")

    closed = await world.close(opened.id)
    assert (closed.status, closed.worker) == ("closed", "")
    assert await world.close(opened.id) == closed == await world.get(opened.id)
    await until(lambda: not worker.copies, "a dropped copy")
    with pytest.raises(Refused) as refused:
        await world.steer(opened.id, "a green ball")
    assert refused.value.refusal.code == "session_ended"


async def test_a_silent_worker_s_session_goes_on_elsewhere_with_the_next_epoch(world: World) -> None:
    first = await world.worker("w-1")
    await world.ready(capacity=2)
    opened = await world.open()
    await until(lambda: opened.id in first.copies, "a copy")
    await first.set_copy(opened.id, next_chunk=4)
    second = await world.worker("w-2")
    await first.fall_silent()
    await until(lambda: opened.id in second.copies, "a copy elsewhere")
    own = second.owns[0]
    assert (own.epoch, own.start_chunk) == (2, 4)
    moved = await world.get(opened.id)
    assert (moved.status, moved.worker, moved.epoch, moved.next_chunk) == ("active", "w-2", 2, 4)


async def test_queued_sessions_are_placed_oldest_first_as_room_appears(world: World) -> None:
    await world.ready()
    waiting = [await world.open() for _ in range(3)]
    assert [(view.status, view.position) for view in waiting] == [("queued", 0), ("queued", 1), ("queued", 2)]
    await world.worker("w-1", capacity=1)
    await world.until_status(waiting[0].id, "active")
    assert (await world.get(waiting[2].id)).position == 1
    await world.pause(waiting[0].id)
    await world.until_status(waiting[1].id, "active")
    assert (await world.resume(waiting[0].id)).status == "queued", "its place was taken"
    assert (await world.get(waiting[0].id)).position == 0, "but it is older than the one that waits"
    await world.close(waiting[1].id)
    await world.until_seen(waiting[0].id, status="active", epoch=2)
    assert (await world.get(waiting[2].id)).status == "queued"


async def test_higher_priority_goes_first_then_the_tenant_with_fewer_active(world: World) -> None:
    await world.worker("w-1", capacity=2)
    await world.ready(capacity=2)
    first, stays = await world.open(), await world.open()
    for session in (first, stays):
        await world.until_seen(session.id, status="active")
    second, guest = await world.open(), await world.open(tenant="guest")
    urgent = await world.open(priority=5)
    for position, waits in enumerate((urgent, guest, second)):
        await until_position(world, waits, position)
    for leaves, comes in ((first, urgent), (urgent, guest), (guest, second)):
        await world.close(leaves.id, leaves.tenant)
        await world.until_status(comes.id, "active")


async def until_position(world: World, waits: SessionView, position: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await world.get(waits.id, waits.tenant)).position != position:
            await asyncio.sleep(0.02)


async def test_copies_decide_the_end_and_failures_are_tried_again(world: World) -> None:
    worker = await world.worker("w-1")
    await world.ready(capacity=2)
    finite, doomed = await world.open(max_chunks=3), await world.open()
    await until(lambda: len(worker.copies) == 2, "two copies")
    await worker.set_copy(finite.id, state="finished", next_chunk=3)
    finished = await world.until_status(finite.id, "closed")
    assert (finished.reason, finished.next_chunk) == ("finished", 3)
    for epoch in (1, 2, 3, 4):
        await worker.until_epoch(doomed.id, epoch)
        await worker.set_copy(doomed.id, state="failed", error="no memory")
    failed = await world.until_status(doomed.id, "failed")
    assert "no memory" in failed.reason


async def test_a_command_that_got_lost_is_repeated(world: World) -> None:
    worker = await world.worker("w-1")
    await world.ready(capacity=2)
    worker.refusing = "log_away"
    opened = await world.open()
    await until(lambda: len(worker.owns) >= 2, "a repeated command")
    assert (await world.steer(opened.id, "a blue ball")).from_chunk == 0
    worker.refusing = ""
    await until(lambda: opened.id in worker.copies, "a copy")
    assert worker.owns[-1].inputs[0].text == "a blue ball"


async def test_refusals_say_what_is_wrong(world: World) -> None:
    await world.worker("w-1")
    await world.ready(capacity=2)
    opened = await world.open(idempotency_key="k-1", seed=1)
    assert (await world.open(idempotency_key="k-1", seed=1)).id == opened.id
    foreign = await world.open(idempotency_key="k-1", seed=1, tenant="other")
    assert foreign.id != opened.id
    unknown = opened.id[:-3] + "000"
    for code, asking in [
        ("idempotency_conflict", world.open(idempotency_key="k-1", seed=2)),
        ("prompt_empty", world.open("")),
        ("unknown_model", world.open(model="wan")),
        ("unknown_rung", world.open(rung="huge")),
        ("invalid_field", world.page(limit=0)),
        ("invalid_field", world.page(cursor="nonsense")),
        ("session_not_found", world.get(unknown)),
        ("session_not_found", world.pause("nonsense")),
        ("session_not_found", world.get(opened.id, tenant="other")),
        ("prompt_too_long", world.steer(opened.id, "x" * 201)),
    ]:
        with pytest.raises(Refused) as refused:
            await asking
        assert refused.value.refusal.code == code
    assert [view.id for view in (await world.page(live_only=True)).sessions] == [opened.id]
    assert (await world.page(limit=1)).cursor
    await world.close(foreign.id, tenant="other")


async def test_nonsense_on_every_subject_is_survived(world: World, nats_server: NatsServer) -> None:
    await world.ready()
    opened = await world.open()
    client = await nats.connect(nats_server.url)
    tokens = {"tenant": TENANT, "session": opened.id, "worker": "w-1", "model": "sprites"}
    for subject in ALL:
        name = subject.pattern(**{t: v for t, v in ({"cell": CELL} | tokens).items() if t in subject.tokens})
        await client.publish(name.replace("*", "x"), b"\xc1 nonsense")
    answer = await client.request(OPEN.at(cell=CELL, tenant=TENANT).subject, b"\xc1", timeout=WAIT_S)
    assert answer.headers is not None
    assert answer.headers[ERROR_HEADER] == "undecodable"
    assert "OpenSession" in codec.decode(Refusal, answer.data).message
    worker = await world.worker("w-1")
    impostor = LOAD_REPORT.at(cell=CELL, worker="w-2").subject
    await client.publish(impostor, codec.encode(msgspec.structs.replace(await heard(world), capacity=99)))
    await world.ready(capacity=2)
    await until(lambda: opened.id in worker.copies, "a copy")
    assert world.loads[-1].capacity == 2
    await client.close()


async def heard(world: World) -> LoadReport:
    reports: list[LoadReport] = []
    subscription = await world.bus.subscribe(LOAD_REPORT, lambda report, _: reports.append(report), cell=CELL)
    await until(lambda: bool(reports), "a report")
    await subscription.unsubscribe()
    return reports[0]
