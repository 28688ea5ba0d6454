"""Moves that outlive their placement, or its database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest

from shared.bus import BusAway, NoAnswer, Refused
from tests.fixtures.fake_worker import FakeWorker
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import StartPlacement, World
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.waiting import until


@pytest.fixture
def start(start_placement: StartPlacement, database_url: str) -> StartPlacement:
    """One after the other on the same database."""
    return partial(start_placement, database_url)


@pytest.fixture
async def world(nats_server: NatsServer) -> AsyncIterator[World]:
    async with World(nats_server.url) as world:
        yield world


async def pair(world: World) -> tuple[FakeWorker, FakeWorker, str]:
    """A worker with a session, and another one."""
    source = await world.worker("w-1")
    await world.ready(capacity=2)
    session = (await world.open()).id
    await until(lambda: session in source.copies, "a copy")
    await source.set_copy(session, next_chunk=4)
    target = await world.worker("w-2")
    await world.ready(capacity=4)
    return source, target, session


async def ask_in_vain(world: World, session: str) -> None:
    with contextlib.suppress(NoAnswer, BusAway, Refused):
        await world.move(session, "w-2")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_placement_started_anew_takes_in_a_move_that_it_knows_nothing_of(
    world: World, start: StartPlacement
) -> None:
    doomed = start()
    source, target, session = await pair(world)
    source.plan = "freeze"
    asking = asyncio.create_task(ask_in_vain(world, session))
    await until(lambda: session in source.frozen, "the freeze")
    move = source.moves[-1]
    doomed.kill()
    await target.arrive(move)
    start()
    await world.ready(capacity=4)
    await until(lambda: move.move_id in target.called_off, "a move that nobody knows to be called off")
    assert ((await world.get(session)).worker, source.drops) == ("w-1", [])
    await target.prove(session)  # it had the state already, and the log arbitrates
    await world.until_seen(session, worker="w-2", epoch=2)
    await until(lambda: session not in source.copies, "the source's copy to go")
    asking.cancel()


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
async def test_an_epoch_that_was_given_is_not_given_again(world: World, start: StartPlacement) -> None:
    doomed = start()
    source, target, session = await pair(world)
    source.plan = "begin"
    asking = asyncio.create_task(ask_in_vain(world, session))
    await until(lambda: bool(source.moves), "the order to the source")
    assert source.moves[-1].target_epoch == 2
    doomed.kill()
    start()
    await world.ready(capacity=4)
    source.plan = "arrive"
    assert (await world.move(session, "w-2")).outcome == "moved"
    assert (target.copies[session].epoch, source.moves[-1].target_epoch) == (3, 3)
    asking.cancel()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_placement_started_anew_after_the_hand_over(world: World, start: StartPlacement) -> None:
    doomed = start()
    source, target, session = await pair(world)
    target.plan = "wait"
    asking = asyncio.create_task(ask_in_vain(world, session))
    await world.until_seen(session, worker="w-2", epoch=2)
    doomed.kill()
    start()
    await world.ready(capacity=4)
    assert session in source.copies, "the target's is not proven"
    await target.prove(session)
    await until(lambda: session not in source.copies, "the source's copy to go")
    assert (await world.get(session)).epoch == 2
    asking.cancel()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_move_waits_for_its_database(
    world: World, start: StartPlacement, postgres_server: PostgresServer
) -> None:
    start(worker_silent_s=60, move_s=60)  # nobody reports while this test starts the database
    source, target, session = await pair(world)
    source.plan = "freeze"
    moving = asyncio.create_task(world.move(session, "w-2"))
    await until(lambda: session in source.frozen, "the freeze")
    await asyncio.to_thread(postgres_server.stop)
    await target.arrive(source.moves[-1])
    await target.prove(session)
    assert session in source.copies
    postgres_server.start()
    assert (await moving).outcome == "moved"
    await world.until_seen(session, worker="w-2", epoch=2)
