"""Moves as placement drives them, with workers that speak the wire and move by script."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from shared.bus import Refused
from shared.contracts.moves import Move, SessionMoved
from tests.fixtures.fake_worker import MODEL, FakeWorker
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import World, placement_program
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S, until


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


async def pair(world: World) -> tuple[FakeWorker, FakeWorker, str]:
    """A worker with a session, and another one."""
    source = await world.worker("w-1", capacity=3)
    await world.ready(capacity=3)
    session = (await world.open()).id
    await until(lambda: session in source.copies, "a copy")
    await source.set_copy(session, next_chunk=4)
    target = await world.worker("w-2")
    await world.ready(capacity=5)
    return source, target, session


async def begun(world: World, source: FakeWorker, session: str) -> tuple[asyncio.Task[SessionMoved], Move]:
    """A move that the source has begun, and what will be told of it."""
    moving = asyncio.create_task(world.move(session, "w-2"))
    await until(lambda: bool(source.moves), "the order to the source")
    return moving, source.moves[-1]


async def view(world: World, session: str) -> tuple[str, str, int]:
    seen = await world.get(session)
    return seen.status, seen.worker, seen.epoch


async def refused(world: World, session: str, to: str = "") -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        await world.move(session, to)
    return caught.value.refusal.code, caught.value.refusal.message


async def move_again(world: World, session: str, to: str = "") -> SessionMoved:
    """Placement hears a moment later that the last move has come to its end."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await world.move(session, to)
            except Refused as refused:
                if refused.refusal.code != "busy_moving":
                    raise
            await asyncio.sleep(0.02)


async def test_a_session_moves_with_its_state(world: World) -> None:
    source, target, session = await pair(world)
    moved = await world.move(session, "w-2")
    assert (moved.outcome, moved.source, moved.target, moved.sent_bytes) == ("moved", "w-1", "w-2", 1_000_000)
    assert moved.pause_s >= 0
    names = [phase.name for phase in moved.phases]
    assert names == ["propose", "reserve", "order", "carry", "prove", "source link", "target link"]
    assert await view(world, session) == ("active", "w-2", 2)
    reserve = target.reserved[f"{session}.2"]
    assert (reserve.own.epoch, reserve.move.epoch, reserve.move.target_epoch) == (1, 1, 2)
    assert (reserve.compatibility.dtype, reserve.own.move_id) == ("float32", "")
    assert {(own.epoch, own.move_id) for own in target.owns} == {(2, f"{session}.2")}
    assert target.copies[session].next_chunk == 5
    await until(lambda: session not in source.copies, "the source's copy to go")
    assert source.drops[-1].unless_past is None
    assert source.called_off == target.called_off == []
    back = await move_again(world, session)
    assert (back.outcome, back.target) == ("moved", "w-1")
    assert await view(world, session) == ("active", "w-1", 3)


async def test_reports_alone_carry_a_move(world: World) -> None:
    source, target, session = await pair(world)
    source.mute = target.mute = True
    moved = await world.move(session, "w-2")
    assert (moved.outcome, moved.pause_s) == ("moved", 0.0)


async def test_news_alone_carry_a_move(world: World) -> None:
    source, target, session = await pair(world)
    target.hidden.add(session)
    target.plan = "wait"
    moving, move = await begun(world, source, session)
    await until(lambda: bool(target.owns), "the target to be told")
    assert await view(world, session) == ("active", "w-2", 2)
    assert session in source.copies, "nothing proves the target's yet"
    await target.tell(move, "owner")
    assert (await moving).outcome == "moved"
    assert not source.drops
    target.hidden.clear()
    await target.prove(session)
    await until(lambda: session not in source.copies, "the source's copy to go")


async def test_a_session_without_credit_has_moved_once_its_target_knows(world: World) -> None:
    source, target, session = await pair(world)
    target.watched, target.plan = False, "wait"
    assert (await world.move(session, "w-2")).outcome == "moved"
    assert target.copies[session].move_id == f"{session}.2", "no chunk, no proof"
    await until(lambda: session not in source.copies, "the source's copy to go")
    assert source.drops[-1].unless_past == 4


async def test_a_worker_that_ends_another_move_is_asked_again(world: World) -> None:
    source, _, session = await pair(world)
    source.plan = "refuse busy"
    moving = asyncio.create_task(world.move(session, "w-2"))
    await until(lambda: source.orders > 1, "the order to be repeated")
    source.plan = "prove"
    assert (await moving).outcome == "moved"


async def test_a_paused_session_moves_too_and_its_first_chunk_proves_it(world: World) -> None:
    source, target, session = await pair(world)
    await world.pause(session)
    await source.until_copy(session, state="paused")
    assert (await world.move(session, "w-2")).outcome == "moved"
    assert await view(world, session) == ("paused", "w-2", 2)
    assert target.copies[session].move_id == f"{session}.2", "no chunk, no proof"
    await until(lambda: session not in source.copies, "the source's copy to go")
    assert source.drops[-1].unless_past == 4
    await world.resume(session)
    await target.until_copy(session, move_id="")
    assert await view(world, session) == ("active", "w-2", 2)
    assert (await move_again(world, session, "w-1")).outcome == "moved"


async def test_a_paused_session_moves_again_once_nobody_else_has_its_state(world: World) -> None:
    source, target, session = await pair(world)
    await world.pause(session)
    await source.until_copy(session, state="paused")
    assert (await world.move(session, "w-2")).outcome == "moved"
    await until(lambda: session not in source.copies, "the source's copy to go")
    assert (await move_again(world, session, "w-1")).outcome == "moved"
    assert await view(world, session) == ("paused", "w-1", 3)
    assert source.copies[session].move_id == f"{session}.3"
    await until(lambda: session not in target.copies, "the source's copy to go")


async def test_the_source_stays(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = "begin"
    moving, move = await begun(world, source, session)
    await source.stay(move, "the link broke")
    moved = await moving
    assert (moved.outcome, moved.why) == ("stayed", "worker w-1: the link broke")
    told = {move.move_id}
    await until(lambda: set(target.called_off) == set(source.called_off) == told, "both to be told")
    assert await view(world, session) == ("active", "w-1", 1)
    source.plan = "arrive"
    assert (await move_again(world, session, "w-2")).outcome == "moved"
    assert await view(world, session) == ("active", "w-2", 3), "no epoch is given twice"


async def test_the_target_refuses_or_frees_before_it_has_the_state(world: World) -> None:
    source, target, session = await pair(world)
    target.refusing = "no_slot"
    assert (await world.move(session, "w-2")).outcome == "stayed"
    assert not source.moves
    target.refusing, source.plan = "", "freeze"
    moving, move = await begun(world, source, session)
    await target.free(move, "too late")
    assert ((await moving).outcome, (await moving).why) == ("stayed", "worker w-2: too late")
    assert await view(world, session) == ("active", "w-1", 1)


async def test_the_target_frees_what_it_owns_already(world: World) -> None:
    source, target, session = await pair(world)
    target.plan = "wait"
    moving, move = await begun(world, source, session)
    await world.until_seen(session, worker="w-2", epoch=2)
    await target.free(move, "the source went on")
    moved = await moving
    assert (moved.outcome, moved.why) == ("stayed", "the source went on")
    await source.until_epoch(session, 3)
    assert source.owns[-1].move_id == ""
    assert await view(world, session) == ("active", "w-1", 3)


async def test_an_owner_without_the_state_says_so_when_told(world: World) -> None:
    source, target, session = await pair(world)
    target.plan, target.mute = "wait", True
    source.plan = "freeze"
    moving, move = await begun(world, source, session)
    target.mute = False
    await target.tell(move, "arrived")  # and lost it in the same moment
    assert (await moving).outcome == "stayed"
    await source.until_epoch(session, 3)


async def test_the_target_dies_before_it_has_the_state(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = "freeze"
    moving, _ = await begun(world, source, session)
    await target.die()
    moved = await moving
    assert (moved.outcome, moved.why) == ("stayed", "worker w-2: its worker ended")
    assert await view(world, session) == ("active", "w-1", 1)


async def test_the_target_dies_with_a_session_it_owns_already(world: World) -> None:
    source, target, session = await pair(world)
    target.plan = "wait"
    moving, _ = await begun(world, source, session)
    await world.until_seen(session, worker="w-2", epoch=2)
    assert session in source.copies
    await target.die()
    assert (await moving).outcome == "stayed"
    await source.until_epoch(session, 3)
    assert source.copies[session].next_chunk == 4, "the same copy goes on"


async def test_the_source_dies(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = "freeze"
    moving, move = await begun(world, source, session)
    await source.die()
    assert (await moving).outcome in ("placed", "stayed")
    await target.until_epoch(session, 3)
    assert await view(world, session) == ("active", "w-2", 3)
    await until(lambda: move.move_id in target.called_off, "the target to be told")


async def test_source_and_target_die_with_it(world: World) -> None:
    source, target, session = await pair(world)
    target.plan = "wait"
    moving, _ = await begun(world, source, session)
    await world.until_seen(session, worker="w-2", epoch=2)
    await source.die()
    await target.die()
    assert (await moving).outcome == "lost"
    third = await world.worker("w-3")
    await third.until_epoch(session, 3)


async def test_a_session_without_a_state_is_placed(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = "refuse nothing_to_move"
    assert (await world.move(session, "w-2")).outcome == "placed"
    await target.until_epoch(session, 2)
    assert target.owns[-1].move_id == ""
    await until(lambda: session not in source.copies, "the source's copy to go")


async def test_steering_in_mid_move_is_answered_by_whoever_owns_it_then(world: World) -> None:
    source, target, session = await pair(world)
    source.plan, target.plan = "freeze", "wait"
    moving, move = await begun(world, source, session)
    await until(lambda: session in source.frozen, "the freeze")
    steering = asyncio.create_task(world.steer(session, "a blue ball"))
    await until(lambda: source.owns[-1].inputs[0].text == "a blue ball", "the source to be asked")
    await target.arrive(move)
    steered = await steering
    assert (steered.from_chunk, steered.inputs_version) == (4, 2)
    await target.prove(session)
    assert (await moving).outcome == "moved"
    assert target.owns[-1].inputs[0].text == "a blue ball"


async def test_pausing_in_mid_move(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = "freeze"
    moving, move = await begun(world, source, session)
    await world.pause(session)
    await target.arrive(move)
    assert (await moving).outcome == "moved"
    assert await view(world, session) == ("paused", "w-2", 2)
    assert target.copies[session].state == "paused"


async def test_closing_in_mid_move(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = target.plan = "arrive"
    moving, _ = await begun(world, source, session)
    await until(lambda: session in target.copies, "the state to arrive")
    await world.close(session)
    moved = await moving
    assert (moved.outcome, moved.why) == ("stayed", "the session has ended")
    await until(lambda: session not in source.copies and session not in target.copies, "both to drop it")


async def test_what_can_t_be_moved_is_refused_in_words(world: World) -> None:
    source, _, session = await pair(world)
    other = msgspec.structs.replace(MODEL, weights_digest="sha256:1", dtype="bfloat16")
    await world.worker("w-3", model=other)
    await world.worker("w-4", transports=())
    await world.worker("w-5", model=msgspec.structs.replace(MODEL, name="wan"))
    await world.worker("w-6", model=msgspec.structs.replace(MODEL, architecture=""))
    full = await world.worker("w-7", capacity=0)
    full.state = "ready"
    draining = await world.worker("w-8")
    draining.state = "draining"
    await world.ready(capacity=9)
    queued = (await world.open(model="sprites", rung="low")).id
    for to, code, words in [
        ("w-9", "worker_not_found", "no worker 'w-9'"),
        ("w-1", "already_there", "on worker w-1 already"),
        ("w-3", "incompatible", "dtype: float32 and bfloat16; weights: sha256:0 and sha256:1"),
        ("w-4", "incompatible", "no transport links the two workers (w-1: tcp; w-4: none)"),
        ("w-5", "incompatible", "w-5 serves wan"),
        ("w-6", "incompatible", "w-6 does not say which architecture"),
        ("w-7", "no_slot", "w-7 has no room: 0 of 0"),
        ("w-8", "worker_not_ready", "w-8 is draining"),
    ]:
        got, message = await refused(world, session, to)
        assert (got, words in message) == (code, True), message
    await world.close(session)
    assert (await refused(world, session))[0] == "session_ended"
    assert (await refused(world, queued[:-3] + "000"))[0] == "session_not_found"
    assert not source.moves


async def test_one_move_of_a_session_at_a_time(world: World) -> None:
    source, target, session = await pair(world)
    source.plan = "freeze"
    moving, move = await begun(world, source, session)
    assert (await refused(world, session, "w-2"))[0] == "busy_moving"
    await target.arrive(move)
    assert (await moving).outcome == "moved"


async def test_moves_from_one_worker_take_turns(world: World) -> None:
    source, target, session = await pair(world)
    other = (await world.open()).id
    await until(lambda: other in target.copies, "the emptier worker's copy")
    assert (await world.move(other, "w-1")).outcome == "moved"
    source.plan = "freeze"
    first, move = await begun(world, source, session)
    second = asyncio.create_task(world.move(other, "w-2"))
    await world.get(session)
    assert len(source.moves) == 1, "the second waits"
    source.plan = "arrive"
    await target.arrive(move)
    assert [(await first).outcome, (await second).outcome] == ["moved", "moved"]
    assert set(target.copies) == {session, other}
