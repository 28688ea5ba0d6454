"""Placement on its named policies: moves that pay, drains that the autoscaler asks for, a baseline."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.contracts.fleet import FleetPlan
from shared.contracts.subjects import FLEET_PLAN
from shared.decision_log import DecisionLog
from tests.fixtures.fake_worker import CELL, FakeWorker
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import World, placement_program
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S, until, until_some

QUICK = '{"patience_s": 0.1, "settle_s": 0.0, "drain_patience_s": 0.1}'


@pytest.fixture(scope="module")
def placement(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("placement")
    url = f"sqlite+aiosqlite:///{folder / 'db.sqlite'}"
    program = placement_program(nats_server.url, url, folder, policy_settings=QUICK)
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def world(nats_server: NatsServer, placement: Program) -> AsyncIterator[World]:
    async with World(nats_server.url) as world:
        yield world
        await plan(world)
        await world.clear()


async def plan(world: World, *draining: str) -> None:
    told = FleetPlan("a-1", 2, 0, 9, "as the test wants it", [], time.time(), draining=list(draining))
    await world.bus.publish(FLEET_PLAN.at(cell=CELL), told)


async def state_of(world: World, worker: str, state: str) -> None:
    def shown() -> bool:
        return any(one.worker == worker and one.state == state for one in world.loads[-1].workers)

    await until(shown, f"{worker} {state}")


async def one_of_each(world: World, there: FakeWorker) -> tuple[str, str]:
    """An active and a paused session, both on the only worker."""
    active, paused = (await world.open()).id, (await world.open()).id
    await until(lambda: {active, paused} <= set(there.copies), "two copies")
    await world.pause(paused)
    await there.until_copy(paused, state="paused")
    return active, paused


async def test_a_session_is_moved_to_where_its_chunks_are_quicker(world: World) -> None:
    first = await world.worker("w-1", capacity=3)
    await world.ready(capacity=3)
    opened = {(await world.open()).id for _ in range(2)}
    await until(lambda: opened == set(first.copies), "two copies")
    second = await world.worker("w-2", capacity=3)
    (moved,) = await until_some(lambda: set(second.copies) or None, "one that was moved")
    await world.until_seen(moved, worker="w-2", epoch=2)
    await until(lambda: set(first.copies) == opened - {moved}, "the other one alone")
    assert first.moves[0].target == "w-2", "with its state"

    decision = (await world.get(moved)).decision
    async with asyncio.timeout(WAIT_S):  # it is recorded in the background
        while (record := await DecisionLog(world.bus, CELL).get(decision)) is None:
            await asyncio.sleep(0.02)
    assert record.sessions == [moved]
    assert record.reason.startswith("1 moved: worst latency")


async def test_the_autoscaler_empties_a_worker_and_takes_it_back(world: World) -> None:
    first = await world.worker("w-1")
    await world.ready(capacity=2)
    active, paused = await one_of_each(world, first)
    second = await world.worker("w-2", capacity=3)
    await world.ready(capacity=5)

    await plan(world, "w-1")
    await until(lambda: {active, paused} <= set(second.copies) and not first.copies, "an empty worker")
    assert {move.target for move in first.moves} == {"w-2"}
    await state_of(world, "w-1", "draining")
    assert (await world.open()).worker == "w-2"
    assert first.state == "ready", "it may be taken back"

    await plan(world)
    await state_of(world, "w-1", "ready")
    assert (await world.open()).worker == "w-1"


async def test_what_can_t_be_moved_off_a_worker_begins_anew_elsewhere(world: World) -> None:
    first = await world.worker("w-1", transports=())
    await world.ready(capacity=2)
    active, paused = await one_of_each(world, first)
    second = await world.worker("w-2", capacity=3)
    await world.ready(capacity=5)
    await plan(world, "w-1")
    await until(lambda: active in second.copies and not first.copies, "an empty worker")
    released = await world.get(paused)
    assert (released.status, released.worker) == ("paused", "")
    assert (await world.resume(paused)).worker == "w-2"


async def test_a_baseline_by_its_name(fresh_nats: NatsServer, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'db.sqlite'}"
    program = placement_program(fresh_nats.url, url, tmp_path, policy="fixed-rr", policy_settings="")
    program.start(lambda: True)
    try:
        async with World(fresh_nats.url) as world:
            await world.worker("w-1", capacity=4)
            await world.worker("w-2", capacity=1)
            await world.ready(capacity=5)
            opened = [await world.open() for _ in range(4)]
            assert [view.worker for view in opened] == ["w-1", "w-2"] * 2, "in turn, beyond capacity too"
            await world.pause(opened[3].id)
            assert (await world.resume(opened[3].id)).worker == "w-2", "for life"
    finally:
        program.kill()
