"""Autoscalers as processes: one leads a cell, the other waits, takes over, or refuses to start."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared.bus import Bus
from shared.contracts.fleet import FleetPlan, ServiceStatus, SetFleet
from shared.contracts.subjects import FLEET_PLAN, SERVICE_STATUS, SET_FLEET
from shared.process import EXIT_UNAVAILABLE
from tests.fixtures.process import START_S, Program
from tests.fixtures.system import TINY
from tests.fixtures.waiting import WAIT_S, until

pytestmark = pytest.mark.timeout(300)

Start = Callable[..., Program]


class Ear:
    """What autoscalers say."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.plans: list[FleetPlan] = []
        self.states: dict[str, str] = {}

    async def listen(self) -> None:
        await self.bus.subscribe(FLEET_PLAN, lambda plan, _: self.plans.append(plan), cell="main")
        await self.bus.subscribe(SERVICE_STATUS, lambda said, _: self._said(said), cell="main")
        await self.bus.flush()

    def _said(self, status: ServiceStatus) -> None:
        if status.service == "autoscaler":
            self.states[status.instance] = status.state

    def led_by_others(self, leader: str) -> bool:
        return self.plans[-1].autoscaler != leader

    def workers_of(self, leader: str) -> list[str]:
        """Those that its newest plan shows, and that run or start."""
        plan = next((plan for plan in reversed(self.plans) if plan.autoscaler == leader), None)
        shown = plan.workers if plan else []
        return [worker.worker for worker in shown if worker.state in ("starting", "running")]


@pytest.fixture
async def ear(nats_url: str) -> AsyncIterator[Ear]:
    bus = Bus(nats_url, "ear")
    await bus.connect(WAIT_S)
    ear = Ear(bus)
    await ear.listen()
    yield ear
    await bus.close()


@pytest.fixture
def start(nats_url: str, tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def start(database_url: str, **settings: object) -> Program:
        given = {"database_url": database_url, "nats_url": nats_url, "minimum": 0} | settings
        options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        log = tmp_path / f"autoscaler-{len(programs)}.log"
        program = Program([sys.executable, "-m", "turboserve", "autoscaler", *options], log, env=TINY)
        programs.append(program)
        program.start(lambda: True)
        return program

    yield start
    for program in programs:
        program.kill()


async def test_a_second_autoscaler_on_sqlite_refuses_to_start(ear: Ear, start: Start, tmp_path: Path) -> None:
    database_url = f"sqlite+aiosqlite:///{tmp_path / 'turboserve.sqlite'}"
    first = start(database_url, lease_ttl_s=8)
    await until(lambda: bool(ear.plans), "the first one's plan", START_S)
    second = start(database_url)
    await until(lambda: not second.running, "the second one's end", START_S)
    assert second.stop() == EXIT_UNAVAILABLE
    assert "another autoscaler" in second.output()
    assert first.running


async def test_on_postgres_a_second_autoscaler_takes_over_with_workers_of_its_own(
    ear: Ear, start: Start, fresh_postgres_url: str
) -> None:
    first = start(fresh_postgres_url, minimum=1, lease_ttl_s=4)
    await until(lambda: bool(ear.plans), "a leader's plan", START_S)
    leader = ear.plans[0].autoscaler
    await until(lambda: len(ear.workers_of(leader)) == 1, "its worker", START_S)
    children = psutil.Process(first.pid).children()
    await ear.bus.request(SET_FLEET.at(cell="main"), SetFleet(maximum=3), WAIT_S)
    second = start(fresh_postgres_url, minimum=1, lease_ttl_s=4)
    await until(
        lambda: "waiting" in ear.states.values() or ear.led_by_others(leader), "a second one", START_S
    )
    first.kill()
    await until(lambda: ear.led_by_others(leader), "another leader", START_S)
    taken_over = ear.plans[-1]
    assert taken_over.maximum == 3, "what operators set holds"
    await until(lambda: len(ear.workers_of(taken_over.autoscaler)) == 1, "its own worker", START_S)
    await until(lambda: not any(map(_runs, children)), "the former one's worker gone")
    assert second.stop() == 0


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
