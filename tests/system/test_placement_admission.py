"""Who is refused, and by which decision, of a real placement."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from services.placement.policies import registry
from services.placement.policies.view import Decision, Memory, Place, View
from shared.bus import Refused
from shared.contracts.decisions import DecisionRecord
from shared.contracts.fleet import LatencyPoint
from shared.contracts.session import Refusal
from shared.decision_log import DecisionLog, unpack
from tests.fixtures.fake_worker import CELL, FakeWorker
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import World, placement_program
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S, until

HALF_AT_LOW = [LatencyPoint(1, 1.0, "full"), LatencyPoint(1, 0.5, "low")]


@pytest.fixture(scope="module")
def placement(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Where nobody may wait long: not even for the next place that an average session gives back."""
    folder = tmp_path_factory.mktemp("placement")
    url = f"sqlite+aiosqlite:///{folder / 'db.sqlite'}"
    steps = '{"step_down_s": 0.1, "step_up_s": 0.1}'
    settings: dict[str, Any] = {"longest_wait_s": 0.001, "floor_rung": "low", "policy_settings": steps}
    program = placement_program(nats_server.url, url, folder, **settings)
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def world(nats_server: NatsServer, placement: Program) -> AsyncIterator[World]:
    async with World(nats_server.url) as world:
        yield world
        await world.clear()


async def refusal_of(world: World, key: str) -> Refusal:
    """Of an opening: who is answered before that was decided is told later, and asks again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                opened = await world.open(idempotency_key=key)
            except Refused as refused:
                return refused.refusal
            await world.until_seen(opened.id, status="closed", phase="refused")


async def recorded(world: World, decision: str) -> DecisionRecord:
    """It is put into the log a moment after it was taken."""
    log = DecisionLog(world.bus, CELL, timeout_s=WAIT_S)
    async with asyncio.timeout(WAIT_S):
        while (record := await log.get(decision)) is None:
            await asyncio.sleep(0.02)
    return record


async def test_who_would_wait_too_long_is_refused_and_may_come_back(world: World) -> None:
    await world.worker("w-1", capacity=1)
    await world.ready(capacity=1)
    first = await world.open()
    await world.until_seen(first.id, status="active")
    refusal = await refusal_of(world, "k-1")
    assert refusal.code == "no_capacity"
    assert refusal.message.startswith("not taken: ")
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 1.0
    refused = (await world.page()).sessions[0]
    assert (refused.status, refused.phase, refused.worker) == ("closed", "refused", "")
    assert refused.id in (await recorded(world, refused.decision)).sessions

    await world.close(first.id)
    taken = await world.open(idempotency_key="k-1")
    assert taken.id != refused.id
    await world.until_seen(taken.id, status="active")
    assert (await world.open(idempotency_key="k-1")).id == taken.id


async def test_sessions_step_down_before_anybody_is_refused_and_up_again(world: World) -> None:
    worker = await world.worker("w-1", capacity=1, curve=HALF_AT_LOW)
    await world.ready(capacity=1)
    first = await world.open(rung="full")
    await world.until_seen(first.id, status="active", served_rung="")
    second = await world.open(rung="full")
    for session in (first.id, second.id):
        seen = await world.until_seen(session, status="active", served_rung="low")
        assert seen.rung == "full"
        assert session in (await recorded(world, seen.decision)).sessions
        await until(partial(is_told, worker, session, "low"), "an Own at the lower rung")
    assert (await refusal_of(world, "k-2")).code == "no_capacity"
    await world.close(first.id)
    await world.until_seen(second.id, status="active", served_rung="")
    await until(partial(is_told, worker, second.id, "full"), "an Own at the rung that was asked for")


def is_told(worker: FakeWorker, session: str, rung: str) -> bool:
    return rung == next((own.rung for own in reversed(worker.owns) if own.session == session), "")


async def test_a_live_decision_is_a_function_of_what_was_recorded(world: World) -> None:
    await world.worker("w-1")
    await world.ready(capacity=2)
    opened = await world.open()
    placed = await world.until_seen(opened.id, status="active")
    record = await recorded(world, placed.decision)
    assert (record.service, record.policy_name, record.workers) == ("placement", "turboserve", ["w-1"])
    kinds: list[Any] = [registry.POLICIES[record.policy_name], View, Memory, Decision]
    packed = (record.policy, record.view, record.memory, record.decision)
    policy, view, memory, decision = (
        msgspec.json.decode(unpack(part), type=kind) for part, kind in zip(packed, kinds, strict=True)
    )
    assert any(isinstance(act, Place) and act.session == opened.id for act in decision.acts)
    assert policy.decide(view, memory) == decision
