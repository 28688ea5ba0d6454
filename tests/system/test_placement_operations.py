"""What operators ask of placement, beyond single moves, with workers that speak the wire."""

from collections.abc import AsyncIterator, Iterator

import pytest

from shared.bus import Refused
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import World, placement_program
from tests.fixtures.process import Program
from tests.fixtures.waiting import until


@pytest.fixture(scope="module")
def placement(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("placement")
    url = f"sqlite+aiosqlite:///{folder / 'db.sqlite'}"
    program = placement_program(nats_server.url, url, folder)
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def world(nats_server: NatsServer, placement: Program) -> AsyncIterator[World]:
    async with World(nats_server.url) as world:
        yield world
        await world.clear()


def told(world: World) -> tuple[int, int]:
    """By the newest load: sessions paused, states in the workers' host memory."""
    load = world.loads[-1]
    return load.paused, sum(worker.on_host for worker in load.workers)


async def refused(world: World, worker: str) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        await world.drain(worker)
    return caught.value.refusal.code, caught.value.refusal.message


async def test_sessions_leave_a_drained_worker_and_none_comes(world: World) -> None:
    first = await world.worker("w-1")
    await world.ready(capacity=2)
    active, paused = (await world.open()).id, (await world.open()).id
    await until(lambda: {active, paused} <= set(first.copies), "two copies")
    await first.set_copy(active, next_chunk=4)
    await world.pause(paused)
    await first.until_copy(paused, state="paused")
    second = await world.worker("w-2", capacity=3)
    await world.ready(capacity=5)

    drained = await world.drain("w-1")
    assert (sorted(drained.moved), drained.placed) == (sorted([active, paused]), [])
    assert (drained.queued, drained.released) == ([], [])
    assert [phase.name for phase in drained.phases] == ["move", "place", "start", "release", "stop"]
    assert (second.copies[active].epoch, second.copies[active].next_chunk) == (2, 5)
    await until(lambda: not first.copies, "the drained worker's copies to go")
    resumed = await world.resume(paused)
    assert (resumed.status, resumed.worker, resumed.epoch) == ("active", "w-2", 2)
    assert (await world.open()).worker == "w-2"
    again = await world.drain("w-1", force=True)
    assert (again.moved, again.placed, again.queued, again.released) == ([], [], [], [])


async def test_what_can_t_be_moved_from_a_drained_worker_begins_anew_elsewhere(world: World) -> None:
    first = await world.worker("w-1", transports=())
    await world.ready(capacity=2)
    active, paused = (await world.open()).id, (await world.open()).id
    await until(lambda: {active, paused} <= set(first.copies), "two copies")
    await first.set_copy(active, next_chunk=4)
    await world.pause(paused)
    second = await world.worker("w-2", capacity=3)
    await world.ready(capacity=5)

    drained = await world.drain("w-1")
    assert (drained.moved, drained.placed, drained.released) == ([], [active], [paused])
    assert (second.copies[active].epoch, second.owns[0].start_chunk) == (2, 4)
    assert (drained.copies, first.copies) == (0, {})
    resumed = await world.resume(paused)
    assert (resumed.status, resumed.worker, resumed.epoch) == ("active", "w-2", 2)


async def test_moves_that_come_to_nothing_do_not_hold_up_a_drain(world: World) -> None:
    first = await world.worker("w-1", capacity=3)
    first.plan = "refuse busy"
    await world.ready(capacity=3)
    sessions = {(await world.open()).id for _ in range(3)}
    await until(lambda: sessions == set(first.copies), "three copies")
    second = await world.worker("w-2", capacity=3)
    await world.ready(capacity=6)
    drained = await world.drain("w-1")
    assert (drained.moved, set(drained.placed)) == ([], sessions)
    assert set(second.copies) == sessions
    assert {copy.epoch for copy in second.copies.values()} == {3, 2}, "two were tried to be moved"


async def test_a_session_is_suspended_and_comes_back(world: World) -> None:
    worker = await world.worker("w-1")
    await world.ready(capacity=2)
    session = (await world.open()).id
    await until(lambda: session in worker.copies, "a copy")
    suspended = await world.suspend(session)
    assert (suspended.status, suspended.worker, suspended.tier) == ("paused", "w-1", "host")
    assert suspended.bytes == 1_000_000
    assert [phase.name for phase in suspended.phases] == ["pause", "stow", "stow copy"]
    assert (worker.copies[session].state, worker.copies[session].tier) == ("paused", "host")
    await until(lambda: told(world) == (1, 1), "the load")
    assert (await world.suspend(session)).tier == "host"
    restored = await world.restore(session)
    assert (restored.status, restored.worker, restored.tier) == ("active", "w-1", "device")
    assert [phase.name for phase in restored.phases] == ["place", "own", "restore", "restore copy"]
    assert (worker.copies[session].state, worker.copies[session].tier) == ("running", "device")


async def test_a_session_without_a_state_has_none_to_suspend(world: World) -> None:
    await world.ready()
    session = (await world.open()).id
    suspended = await world.suspend(session)
    assert (suspended.status, suspended.worker, suspended.tier) == ("paused", "", "none")
    assert (await world.restore(session)).status == "queued"
    await world.close(session)
    for code, asking in [
        ("session_ended", world.suspend(session)),
        ("session_not_found", world.restore("nonsense")),
    ]:
        with pytest.raises(Refused) as caught:
            await asking
        assert caught.value.refusal.code == code


async def test_a_session_s_rung_changes_on_command(world: World) -> None:
    worker = await world.worker("w-1")
    await world.ready(capacity=2)
    session = (await world.open()).id
    assert (await world.set_rung(session, "low")).rung == "low"
    await until(lambda: bool(worker.owns) and worker.owns[-1].rung == "low", "the worker to be told")
    with pytest.raises(Refused) as caught:
        await world.set_rung(session, "huge")
    assert caught.value.refusal.code == "unknown_rung"


async def test_the_only_worker_is_drained_by_force_alone(world: World) -> None:
    only = await world.worker("w-1")
    await world.ready(capacity=2)
    session = (await world.open()).id
    await until(lambda: session in only.copies, "a copy")
    code, message = await refused(world, "w-1")
    assert code == "only_worker"
    assert "no other worker is ready to serve sprites" in message
    assert await refused(world, "w-9") == ("worker_not_found", "there is no worker 'w-9'")
    assert (await world.open()).worker == "w-1"

    drained = await world.drain("w-1", force=True)
    assert (drained.moved, len(drained.queued)) == ([], 2)
    assert (await world.get(session)).reason == "its worker is being drained"
    other = await world.worker("w-2")
    await other.until_epoch(session, 2)


async def test_a_worker_that_does_not_answer_gets_nothing_more(world: World) -> None:
    silent, other = await world.worker("w-1"), await world.worker("w-2")
    await world.ready(capacity=4)
    silent.deaf = True
    code, message = await refused(world, "w-1")
    assert code == "worker_silent"
    assert "doesn't answer" in message
    assert {(await world.open()).worker for _ in range(2)} == {"w-2"}
    await until(lambda: len(other.copies) == 2, "both on the other one")
