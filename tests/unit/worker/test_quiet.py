"""When a worker lets go of what an ended one has left mapped."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest

from services.worker.errands import Errands
from services.worker.mover import quiet
from services.worker.planning import Planning
from shared.bus import Bus
from shared.contracts.fleet import LoadReport
from shared.contracts.subjects import LOAD_REPORT
from tests.contract.examples import MESSAGES
from tests.fixtures.waiting import until

REPORT = next(message for message in MESSAGES if isinstance(message, LoadReport))
CELL = "quiet"


class Playing:
    """A planning whose device always has something to do."""

    asked = 0

    def has_time(self, _seconds: float) -> bool:
        self.asked += 1
        return False


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    bus = Bus(nats_url, "test")
    await bus.connect(40)
    yield bus
    await bus.close()


async def test_memory_is_let_go_though_chunks_are_due_once_a_worker_starts(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "_LIMIT_S", 600.0)
    errands, planning = Errands(threading.Condition()), Playing()
    moment = quiet.quiet_moment(errands, cast(Planning, planning), bus, CELL)
    waiting = asyncio.create_task(moment)
    await until(lambda: errands.due, "it asks the device's thread")

    async def say(state: str) -> None:
        report = msgspec.structs.replace(REPORT, state=state)
        await bus.publish(LOAD_REPORT.at(cell=CELL, worker=report.worker), report)
        await bus.flush()

    heard = asyncio.Event()
    await bus.subscribe(LOAD_REPORT, lambda *_: heard.set(), cell=CELL)
    await say("ready")
    await heard.wait()
    errands.run()
    assert planning.asked
    assert not waiting.done()
    await say("starting")
    async with asyncio.timeout(40):
        await waiting

    def gone() -> bool:
        errands.run()
        return not errands.pending

    await until(gone, "nobody waits any more")
