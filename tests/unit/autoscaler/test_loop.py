"""The autoscaler's beat on a real bus, with a provider that keeps a list."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.autoscaler.loop import Loop
from services.autoscaler.plan import Limits, Member
from services.autoscaler.provider import Exit, OnExit
from services.autoscaler.settings import AutoscalerSettings
from shared import telemetry
from shared.bus import Bus, Meta
from shared.contracts.fleet import Drain, Draining, FleetLoad, FleetPlan, WorkerExited, WorkerLoad
from shared.contracts.subjects import DRAIN, FLEET_LOAD, FLEET_PLAN, WORKER_EXITED
from shared.process import Process

DEADLINE_S = 10.0
LIMITS = Limits(1, 3, 0.2, 60.0, 60.0, 5, 60.0)


class ListProvider:
    """Workers are names."""

    def __init__(self, on_exit: OnExit) -> None:
        self.on_exit = on_exit
        self.workers: dict[str, Member] = {}
        self.started = 0

    def members(self) -> tuple[Member, ...]:
        return tuple(self.workers.values())

    async def start(self) -> str:
        self.started += 1
        worker = f"worker-{self.started}"
        self.workers[worker] = Member(worker, "alive", time.monotonic())
        return worker

    def release(self, worker: str) -> None:
        self.workers[worker] = Member(worker, "stopping", time.monotonic())

    async def stop(self, workers: Sequence[str]) -> None:
        for worker in workers:
            self.end(worker, expected=True)

    async def kill(self, worker: str) -> None:
        self.end(worker, expected=False)

    def end(self, worker: str, *, expected: bool, exit_code: int = 1) -> None:
        del self.workers[worker]
        self.on_exit(Exit(worker, exit_code, expected, "exit code 1: out of memory"))


class Stage:
    """A running loop, and placement and the workers, all in `state`, as far as the loop can tell."""

    state = "ready"

    def __init__(self, bus: Bus, process: Process[AutoscalerSettings]) -> None:
        self.bus = bus
        self.process = process
        self.plans: asyncio.Queue[FleetPlan] = asyncio.Queue()
        self.exited: asyncio.Queue[WorkerExited] = asyncio.Queue()
        self.drained: asyncio.Queue[str] = asyncio.Queue()
        self.provider = ListProvider(lambda _: None)

    def make_provider(self, on_exit: OnExit) -> ListProvider:
        self.provider = ListProvider(on_exit)
        return self.provider

    async def listen(self) -> None:
        await self.bus.subscribe(FLEET_PLAN, lambda plan, _: self.plans.put_nowait(plan), cell="main")
        await self.bus.subscribe(WORKER_EXITED, lambda exited, _: self.exited.put_nowait(exited), cell="main")
        await self.bus.serve(DRAIN, self._drain, cell="main")
        await self.bus.flush()

    async def say_load(self, demand: int) -> None:
        workers = [WorkerLoad(w, self.state, 2, 0, 0) for w in self.provider.workers]
        load = FleetLoad("placement-1", demand, 0, 0, 2, workers, [], time.time())
        await self.bus.publish(FLEET_LOAD.at(cell="main"), load)

    async def plan_where(self, desired: int, states: Sequence[str], demand: int | None = None) -> FleetPlan:
        """The next plan like this; `demand` is repeated meanwhile, as placement would."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if demand is not None:
                    await self.say_load(demand)
                plan = await self.plans.get()
                if plan.desired == desired and sorted(w.state for w in plan.workers) == sorted(states):
                    return plan

    async def _drain(self, _: Drain, meta: Meta) -> Draining:
        self.drained.put_nowait(meta.tokens["worker"])
        return Draining(copies=0)


@pytest.fixture
async def stage(nats_url: str) -> AsyncIterator[Stage]:
    settings = AutoscalerSettings(nats_url=nats_url)
    bus = Bus(nats_url, "autoscaler-test")
    await bus.connect(DEADLINE_S)
    stage = Stage(bus, Process("autoscaler", "autoscaler-test", settings, bus))
    await stage.listen()
    running = asyncio.create_task(Loop(stage.process, LIMITS, stage.make_provider).run())
    yield stage
    stage.process.stopping.set()
    await asyncio.wait_for(running, DEADLINE_S)
    assert not stage.provider.workers, "workers end with the autoscaler"
    await stage.process.cancel_tasks()
    await bus.close()


async def test_grows_with_demand_and_drains_when_it_has_gone(stage: Stage) -> None:
    first = await stage.plan_where(1, ["starting"])
    assert (first.minimum, first.maximum) == (1, 3)
    grown = await stage.plan_where(3, ["running"] * 3, demand=5)
    assert "sessions: 5" in grown.reason
    await stage.plan_where(1, ["running", "stopping", "stopping"], demand=0)
    assert {await stage.drained.get(), await stage.drained.get()} == {"worker-2", "worker-3"}


async def test_an_unexpected_end_is_told_at_once_and_replaced(stage: Stage) -> None:
    await stage.plan_where(1, ["starting"])
    stage.provider.end("worker-1", expected=False)
    exited = await asyncio.wait_for(stage.exited.get(), DEADLINE_S)
    assert exited == WorkerExited("worker-1", 1)
    plan = await stage.plan_where(1, ["starting", "exited"])
    assert {w.worker: (w.restarts, w.detail) for w in plan.workers} == {
        "worker-2": (1, ""),
        "worker-1": (0, "exit code 1: out of memory"),
    }


async def test_a_worker_that_an_operator_drained_is_replaced_and_did_not_crash(stage: Stage) -> None:
    stage.state = "draining"
    await stage.plan_where(1, ["running"], demand=0)
    stage.provider.end("worker-1", expected=False, exit_code=0)
    plan = await stage.plan_where(1, ["starting"])
    assert [(w.worker, w.restarts) for w in plan.workers] == [("worker-2", 0)]


async def test_what_a_traced_request_leads_to_belongs_to_its_trace(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = tracing.get_tracer("test")
    monkeypatch.setattr(telemetry, "tracer", tracer)
    await stage.plan_where(1, ["starting"])
    await stage.say_load(0)
    with tracer.start_as_current_span("open") as opening:
        await stage.say_load(3)
    await stage.plan_where(2, ["starting", "running"])
    observed = [span for span in exporter.get_finished_spans() if span.name == "autoscaler.observe"]
    assert [_trace_of(span) for span in observed] == [opening.get_span_context().trace_id]
    assert (observed[0].attributes or {})["turboserve.workers.desired"] == 2


def _trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id
