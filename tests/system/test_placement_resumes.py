"""Sessions resumed on another worker than the one with their state, where workers move by script."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.contracts.moves import Move
from shared.contracts.session import SessionView
from tests.fixtures.fake_worker import FakeWorker
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import StartPlacement, World
from tests.fixtures.waiting import until

PATIENT = {"resume_s": 30.0}


@pytest.fixture
async def world(nats_server: NatsServer) -> AsyncIterator[World]:
    async with World(nats_server.url) as world:
        yield world


async def paused_at_a_full_home(world: World, room: int = 1) -> tuple[FakeWorker, FakeWorker, str]:
    """A paused session, its home, which another session has filled since, and a worker with `room`."""
    home = await world.worker("w-1", capacity=1)
    await world.ready(capacity=1)
    session = (await world.open()).id
    await until(lambda: session in home.copies, "a copy")
    await home.set_copy(session, next_chunk=4)
    await world.pause(session)
    await home.until_copy(session, state="paused")
    await world.open()
    target = await world.worker("w-2", capacity=room)
    await world.ready(capacity=1 + room)
    return home, target, session


async def begun(world: World, home: FakeWorker, session: str) -> tuple[asyncio.Task[SessionView], Move]:
    """A hand-over that its home has begun, and what its user is told in the end."""
    resuming = asyncio.create_task(world.resume(session))
    await until(lambda: bool(home.moves), "the order to its home")
    return resuming, home.moves[-1]


def heard(world: World, session: str) -> list[tuple[str, str]]:
    """What viewers were told of it, without repeats."""
    told = [(view.status, view.phase) for view in world.changes if view.id == session]
    return [now for before, now in zip([("", ""), *told], told, strict=False) if now != before]


async def test_its_state_is_brought_to_where_it_goes_on(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    world.changes.clear()
    resumed = await world.resume(session)
    assert (resumed.status, resumed.worker, resumed.epoch) == ("active", "w-2", 2)
    move_id = f"{session}.2"
    reserve = target.reserved[move_id]
    assert (reserve.own.paused, reserve.move.source, reserve.move.epoch) == (False, "w-1", 1)
    await target.until_copy(session, move_id="", next_chunk=5, epoch=2)
    assert {own.move_id for own in target.owns} == {move_id}
    await until(lambda: session not in home.copies, "its home's copy to go")
    assert heard(world, session)[:2] == [("queued", "resuming"), ("active", "running")]


async def test_an_operator_hears_what_took_how_long(world: World, start_placement: StartPlacement) -> None:
    start_placement(**PATIENT)
    _, target, session = await paused_at_a_full_home(world)
    told = await world.restore(session)
    assert (told.status, told.worker, told.tier) == ("active", "w-2", "device")
    names = [phase.name for phase in told.phases]
    assert names[:5] == ["place", "propose", "reserve", "order", "carry"]
    assert target.stows[-1].epoch == 2


async def test_other_moves_go_on_while_a_suspended_state_comes_to_its_homes_device(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world, room=2)
    assert (await world.suspend(session)).tier == "host"
    home.stowing.clear()
    resuming = asyncio.create_task(world.restore(session))
    await until(lambda: home.stows[-1].tier == "device", "its state to be fetched")
    [beside] = set(home.copies) - {session}
    assert (await world.move(beside, "w-2")).outcome == "moved"
    assert (await world.get(session)).phase == "resuming"
    home.stowing.set()
    told = await resuming
    assert (told.status, told.worker) == ("active", "w-2")
    assert [phase.name for phase in told.phases][:3] == ["place", "fetch", "propose"]
    await target.until_copy(session, move_id="", epoch=2)


async def test_one_that_waited_for_room_is_fetched_from_its_home_too(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home = await world.worker("w-1", capacity=1)
    await world.ready(capacity=1)
    session = (await world.open()).id
    await home.until_copy(session, state="running")
    await world.pause(session)
    await home.until_copy(session, state="paused")
    await world.open()
    assert ((await world.resume(session)).status, home.moves) == ("queued", [])
    target = await world.worker("w-2", capacity=1)
    await target.until_copy(session, move_id="", epoch=2)
    assert [move.move_id for move in home.moves] == [f"{session}.2"]


async def test_a_home_that_is_killed_in_the_middle_is_done_without(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = "freeze"
    resuming, move = await begun(world, home, session)
    assert (await world.get(session)).phase == "resuming"
    await home.die()
    await target.until_copy(session, epoch=3)
    assert target.copies[session].move_id == ""
    assert move.move_id in target.called_off
    assert (await resuming).status in ("active", "queued")
    seen = await world.until_seen(session, status="active", worker="w-2", epoch=3)
    assert seen.next_chunk == 4, "it goes on where it was"


async def test_a_home_that_does_nothing_is_not_waited_for_long(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(resume_s=0.5)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = "begin"
    await world.resume(session)
    await target.until_copy(session, epoch=3, move_id="")
    await until(lambda: session not in home.copies, "its home's copy to go")


@pytest.mark.parametrize("code", ["no_slot", "better_rebuilt"])
async def test_what_home_refuses_to_give_is_rebuilt(
    world: World, start_placement: StartPlacement, code: str
) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = f"refuse {code}"
    await world.resume(session)
    seen = await world.until_seen(session, status="active", worker="w-2")
    assert (seen.next_chunk, home.moves) == (4, [])
    await target.until_copy(session, epoch=seen.epoch)


async def test_a_pause_in_the_middle_leaves_it_with_its_state(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = "freeze"
    resuming, move = await begun(world, home, session)
    assert (await world.pause(session)).status == "paused"
    await target.arrive(move)
    await world.until_seen(session, status="paused", worker="w-2", epoch=2)
    await target.until_copy(session, state="paused", committed=True)
    await resuming
    await until(lambda: session not in home.copies, "its home's copy to go")
    assert (await world.resume(session)).status == "active"
    await target.until_copy(session, move_id="", epoch=2)


async def test_a_prompt_in_the_middle_goes_with_it(world: World, start_placement: StartPlacement) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = "freeze"
    resuming, move = await begun(world, home, session)
    assert (await world.steer(session, "a blue ball")).inputs_version == 2
    await target.arrive(move)
    assert (await resuming).inputs_version == 2
    await until(lambda: bool(target.owns) and target.owns[-1].inputs_version == 2, "the new prompt")
    assert target.owns[-1].move_id == move.move_id


async def test_a_departure_in_the_middle_leaves_nothing(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = "freeze"
    resuming, move = await begun(world, home, session)
    await world.close(session)
    await until(lambda: move.move_id in target.called_off, "the move to be called off")
    await until(lambda: session not in home.copies, "its home's copy to go")
    assert (await resuming).status == "closed"


async def test_one_that_departs_in_the_middle_speaks_against_nobody(
    world: World, start_placement: StartPlacement
) -> None:
    start_placement(**PATIENT)
    home = await world.worker("w-1", capacity=1)
    await world.ready(capacity=1)
    for _ in range(2):
        session = (await world.open()).id
        await home.until_copy(session, state="running")
        await world.pause(session)
        await home.until_copy(session, state="paused")
    first, second = home.copies
    await world.open()
    target = await world.worker("w-2", capacity=1)
    await world.ready(capacity=2)
    home.plan = "freeze"
    resuming, move = await begun(world, home, first)
    await world.close(first)
    await until(lambda: move.move_id in target.called_off, "the move to be called off")
    await resuming
    home.plan = "prove"
    await world.resume(second)
    await target.until_copy(second, move_id="", epoch=2)
    assert [move.session for move in home.moves] == [first, second], "its home gave the next one away"


async def test_the_next_placement_takes_over_in_the_middle(
    world: World, start_placement: StartPlacement, database_url: str
) -> None:
    doomed = start_placement(database_url, **PATIENT)
    home, target, session = await paused_at_a_full_home(world)
    home.plan = "freeze"
    resuming, move = await begun(world, home, session)
    doomed.kill()
    resuming.cancel()
    home.frozen.clear()
    home.plan = "prove"
    start_placement(database_url, **PATIENT)
    seen = await world.until_seen(session, status="active", worker="w-2", epoch=3)
    assert (seen.next_chunk >= 4, move.move_id) == (True, f"{session}.2")
    await target.until_copy(session, epoch=3)
