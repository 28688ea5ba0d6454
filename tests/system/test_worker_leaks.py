"""Sessions come and go, and leave nothing: a worker inside the test's own process, so that one can count."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from services.worker.main import serve
from services.worker.settings import WorkerSettings
from shared.bus import Bus
from shared.process import Process
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.tiny_model import State
from tests.fixtures.waiting import WAIT_S, until
from tests.fixtures.worker_wire import Wire, new_own, next_own

WORKER = "w-1"
ROUNDS, TOGETHER = 8, 4


@pytest.fixture
async def worker_bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """The bus of a worker that runs as a task."""
    settings = WorkerSettings(
        nats_url=nats_server.url,
        model="tiny",
        model_loader="tests.fixtures.tiny_model",
        device="cpu",
        slots=TOGETHER,
        drain_s=0.5,
    )
    bus = Bus(nats_server.url, WORKER, "worker")
    await bus.connect(WAIT_S)
    process = Process("worker", WORKER, settings, bus)
    serving = asyncio.create_task(serve(process))
    yield bus
    process.stopping.set()
    await asyncio.wait_for(serving, WAIT_S)
    await process.cancel_tasks()
    await bus.close()


async def test_tasks_subscriptions_and_states_are_back_after_many_sessions(
    nats_server: NatsServer, worker_bus: Bus
) -> None:
    async with Wire(nats_server.url) as wire:
        await wire.until_state(WORKER)
        await _play(wire)
        before = await _held(worker_bus)
        for _ in range(ROUNDS):
            await _play(wire)
        await until(lambda: _is_back(worker_bus, before), f"no more than {before}")


async def _play(wire: Wire) -> None:
    """A few sessions at once, from opening over a change of epoch and a pause to the end."""
    owns = [new_own() for _ in range(TOGETHER)]
    for own in owns:
        await wire.own(WORKER, own)
    for own in owns:
        await wire.until_copy(WORKER, own.session, next_chunk=2)
        await wire.own(WORKER, next_own(own, epoch=2, paused=True))
    for own in owns:
        assert (await wire.drop(WORKER, own.session, epoch=2)).held
    await wire.until(lambda: not wire.reports[WORKER].copies)


async def _held(bus: Bus) -> tuple[int, int]:
    """Tasks and subscriptions, once the device thread has let every state go."""
    await until(lambda: not _states(), "the end of all states")
    return len(asyncio.all_tasks()), len(bus.client._subs)


def _is_back(bus: Bus, before: tuple[int, int]) -> bool:
    tasks, subscriptions = len(asyncio.all_tasks()), len(bus.client._subs)
    return tasks <= before[0] and subscriptions <= before[1] and not _states()


def _states() -> int:
    gc.collect()
    return sum(isinstance(thing, State) for thing in gc.get_objects())
