"""The placement process on a real bus and database, with workers that speak the wire."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.bus import Refused
from tests.fixtures.placement_wire import World, placement_program, until
from tests.fixtures.process import Program


@pytest.fixture
def placement(nats_url: str, database_url: str, tmp_path: Path) -> Iterator[Program]:
    program = placement_program(nats_url, database_url, tmp_path)
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def world(nats_url: str, placement: Program) -> AsyncIterator[World]:
    async with World(nats_url) as world:
        yield world


async def test_a_session_from_opening_to_closing(world: World) -> None:
    worker = await world.worker("w-1")
    await world.ready(capacity=2)
    opened = await world.open("a red zorp", seed=7, max_chunks=50, rung="low")
    assert (opened.status, opened.worker, opened.epoch) == ("active", "w-1", 1)
    assert opened.warnings == ["unknown word: zorp"]
    await until(lambda: opened.id in worker.copies, "a copy")
    own = worker.owns[0]
    assert (own.epoch, own.seed, own.max_chunks, own.rung, own.paused) == (1, 7, 50, "low", False)

    await worker.set_copy(opened.id, next_chunk=5)
    steered = await world.steer(opened.id, "a blue ball")
    assert (steered.from_chunk, steered.inputs_version) == (5, 2)
    paused = await world.pause(opened.id)
    assert (paused.status, paused.phase, paused.next_chunk) == ("paused", "user", 5)
    assert await world.pause(opened.id) == paused
    await until(lambda: worker.copies[opened.id].state == "paused", "a paused copy")
    resumed = await world.resume(opened.id)
    assert (resumed.status, resumed.worker, resumed.epoch) == ("active", "w-1", 1)
    assert await world.resume(opened.id) == resumed
    await until(lambda: worker.copies[opened.id].state == "running", "a running copy")

    closed = await world.close(opened.id)
    assert (closed.status, closed.worker) == ("closed", "")
    assert await world.close(opened.id) == closed == await world.get(opened.id)
    await until(lambda: not worker.copies, "a dropped copy")
    with pytest.raises(Refused) as refused:
        await world.steer(opened.id, "a green ball")
    assert refused.value.refusal.code == "session_ended"
