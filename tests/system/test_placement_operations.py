"""Draining a worker, as placement does it, with workers that speak the wire."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.bus import Refused
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import World, placement_program, until


@pytest.fixture
async def world(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[World]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'db.sqlite'}"
    program = placement_program(nats_server.url, url, tmp_path, command_timeout_s=0.5)
    program.start(lambda: True)
    async with World(nats_server.url) as world:
        yield world
    program.kill()


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
    await until(lambda: first.copies[paused].state == "paused", "a paused copy")
    second = await world.worker("w-2", capacity=3)
    await world.ready(capacity=5)

    drained = await world.drain("w-1")
    assert (drained.moved, drained.queued, drained.released) == ([active], [], [paused])
    assert drained.copies == 0
    assert [phase.name for phase in drained.phases] == ["place", "start", "release", "stop"]
    assert (second.copies[active].epoch, second.owns[0].start_chunk) == (2, 4)
    assert not first.copies
    resumed = await world.resume(paused)
    assert (resumed.status, resumed.worker, resumed.epoch) == ("active", "w-2", 2)
    assert (await world.open()).worker == "w-2"
    again = await world.drain("w-1", force=True)
    assert (again.moved, again.queued, again.released) == ([], [], [])


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
