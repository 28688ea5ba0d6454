"""`turboserve node` with real workers of the tiny model, and a hand-written placement."""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import Bus, Meta, Refused
from shared.contracts.fleet import Drain, DrainWorker, LoadReport, WorkerDrained, WorkerExited
from shared.contracts.subjects import DRAIN, DRAIN_WORKER, LOAD_REPORT, WORKER_EXITED
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.system import TINY
from tests.fixtures.waiting import until

WORKERS = {"node-1-0", "node-1-1"}
DEADLINE_S = 60.0


@pytest.fixture
def node(nats_url: str, tmp_path: Path) -> Iterator[Program]:
    settings = {
        "TURBOSERVE_NATS_URL": nats_url,
        "TURBOSERVE_NODE_NAME": "node-1",
        "TURBOSERVE_NODE_WORKERS": "2",
        "TURBOSERVE_NODE_DEVICE": "cpu",
    }
    command = [sys.executable, "-P", "-m", "turboserve", "node"]
    program = Program(command, tmp_path / "node.log", TINY | settings)
    yield program
    program.stop(deadline_s=DEADLINE_S)


class Placement:
    """Hears reports and ends, and answers drains: the first worker is unknown to it, the second the only one
    for a while.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.reports: dict[str, LoadReport] = {}
        self.drains: list[DrainWorker] = []
        self.exits: dict[str, int | None] = {}

    async def listen(self) -> None:
        await self.bus.connect(DEADLINE_S)
        await self.bus.subscribe(LOAD_REPORT, self._heard, cell="main")
        await self.bus.subscribe(WORKER_EXITED, self._exited, cell="main")
        await self.bus.serve(DRAIN_WORKER, self._drain, queue="placement", cell="main")
        await self.bus.flush()

    def ready(self) -> bool:
        return {worker for worker, report in self.reports.items() if report.state == "ready"} == WORKERS

    def _heard(self, report: LoadReport, _meta: Meta) -> None:
        self.reports[report.worker] = report

    def _exited(self, exited: WorkerExited, _meta: Meta) -> None:
        self.exits[exited.worker] = exited.exit_code

    async def _drain(self, request: DrainWorker, _meta: Meta) -> WorkerDrained:
        self.drains.append(request)
        if request.worker == "node-1-0":
            raise Refused("worker_not_found", "there is no such worker")
        if self.drains.count(request) == 1:
            raise Refused("only_worker", "no other worker is ready")
        told = await self.bus.request(
            DRAIN.at(cell="main", worker=request.worker), Drain(time.time() + DEADLINE_S), DEADLINE_S
        )
        return WorkerDrained(request.worker, [], [], [], told.copies, [])


async def test_a_node_that_is_told_to_end_hands_its_workers_over(
    node: Program, nats_server: NatsServer
) -> None:
    placement = Placement(Bus(nats_server.url, "placement-1", "placement"))
    await placement.listen()
    node.start(lambda: True)
    await until(placement.ready, "both workers to be ready", DEADLINE_S)
    assert {report.node for report in placement.reports.values()} == {"node-1"}
    exit_code = await asyncio.to_thread(node.stop, deadline_s=DEADLINE_S)
    await until(lambda: len(placement.exits) == 2, "both ends to be told", DEADLINE_S)
    await placement.bus.close()
    assert exit_code == 0, node.output()
    first, second = DrainWorker("node-1-0"), DrainWorker("node-1-1")
    assert [placement.drains.count(drain) for drain in (first, second)] == [1, 2]
    assert placement.exits == dict.fromkeys(WORKERS, 0)
