"""The autoscaler's beat on a real bus, with a provider that keeps a list."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.autoscaler import hands
from services.autoscaler.controls import Controls
from services.autoscaler.desk import Desk
from services.autoscaler.hanging import Deadlines
from services.autoscaler.loop import Loop
from services.autoscaler.outlook import Leaving, Terms
from services.autoscaler.plan import Limits
from services.autoscaler.policies.turboserve import Turboserve
from services.autoscaler.policies.view import View
from services.autoscaler.provider import Exit, Member, OnExit
from services.autoscaler.settings import AutoscalerSettings
from services.autoscaler.steps import Steps
from services.autoscaler.supply import Patience
from shared import telemetry
from shared.bus import Bus, Meta, Refused
from shared.contracts.decisions import DecisionRecord
from shared.contracts.fleet import (
    Drain,
    Draining,
    FleetLoad,
    FleetPlan,
    SetFleet,
    WorkerExited,
    WorkerLoad,
)
from shared.contracts.subjects import DRAIN, FLEET_LOAD, FLEET_PLAN, SET_FLEET, WORKER_EXITED
from shared.decision_log import DecisionLog, unpack
from shared.leadership import Leadership
from shared.process import Process
from shared.store import leases
from shared.store.engine import Store, open_store

DEADLINE_S = 30.0
LIMITS = Limits(Terms(boot_s=0.2), Deadlines(60.0, 60.0), Patience(5, 60.0))
POLICY = Turboserve(forecast=False, hold_boots=0.1)


class ListProvider:
    """Workers are names. `fails`: what the next starts raise instead; `hangs`: starting never ends."""

    node_size = 1

    def __init__(self, on_exit: OnExit) -> None:
        self.on_exit = on_exit
        self.workers: dict[str, Member] = {}
        self.started = 0
        self.fails: list[OSError] = []
        self.hangs = False

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        await self.stop(list(self.workers))

    def members(self) -> tuple[Member, ...]:
        return tuple(self.workers.values())

    async def start(self) -> list[str]:
        if self.fails:
            raise self.fails.pop()
        if self.hangs:
            await asyncio.Event().wait()
        self.started += 1
        worker = f"worker-{self.started}"
        self.workers[worker] = Member(worker, "alive", time.monotonic())
        return [worker]

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
    """A running loop, and placement and the workers as far as the loop can tell. `drained`: by an operator.
    `leads`: whether the loop may act.
    """

    def __init__(self, bus: Bus, process: Process[AutoscalerSettings]) -> None:
        self.bus = bus
        self.process = process
        self.plans: asyncio.Queue[FleetPlan] = asyncio.Queue()
        self.exited: asyncio.Queue[WorkerExited] = asyncio.Queue()
        self.let_go: asyncio.Queue[str] = asyncio.Queue()
        self.provider = ListProvider(lambda _: None)
        self.drained: set[str] = set()
        self.leads = True
        self.newest: FleetPlan | None = None

    def make_provider(self, on_exit: OnExit) -> ListProvider:
        self.provider = ListProvider(on_exit)
        return self.provider

    async def listen(self) -> None:
        await self.bus.subscribe(FLEET_PLAN, self._planned, cell="main")
        await self.bus.subscribe(WORKER_EXITED, lambda exited, _: self.exited.put_nowait(exited), cell="main")
        await self.bus.serve(DRAIN, self._drain, cell="main")
        await self.bus.flush()

    def _planned(self, plan: FleetPlan, _: Meta) -> None:
        self.newest = plan
        self.plans.put_nowait(plan)

    async def say_load(self, demand: int, placement: str = "placement-1") -> None:
        draining = self.drained.union(self.newest.draining if self.newest else ())
        workers = [
            WorkerLoad(w, "draining" if w in draining else "ready", 2, 0, 0) for w in self.provider.workers
        ]
        load = FleetLoad(placement, demand, 0, 0, 2, workers, [], time.time())
        await self.bus.publish(FLEET_LOAD.at(cell="main"), load)

    async def plan_where(self, desired: int, states: Sequence[str], demand: int | None = None) -> FleetPlan:
        """The next plan like this; `demand` is repeated meanwhile, as placement would."""
        return await self.plan_like(
            lambda plan: plan.desired == desired and sorted(w.state for w in plan.workers) == sorted(states),
            demand,
        )

    async def plan_like(self, fits: Callable[[FleetPlan], bool], demand: int | None = None) -> FleetPlan:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if demand is not None:
                    await self.say_load(demand)
                plan = await self.plans.get()
                if fits(plan):
                    return plan

    async def set(self, **asked: Any) -> FleetPlan:
        return await self.bus.request(SET_FLEET.at(cell="main"), SetFleet(**asked), DEADLINE_S)

    async def _drain(self, _: Drain, meta: Meta) -> Draining:
        self.let_go.put_nowait(meta.tokens["worker"])
        return Draining(copies=0)


Begin = Callable[[Controls], Awaitable[Stage]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'turboserve.sqlite'}", DEADLINE_S)
    yield store
    await store.close()


@pytest.fixture
async def begin(nats_url: str, store: Store) -> AsyncIterator[Begin]:
    """Begins a loop, after the one before has ended."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(controls: Controls) -> Stage:
            await stack.aclose()
            return await stack.enter_async_context(_running(nats_url, store, controls))

        yield begin


@contextlib.asynccontextmanager
async def _running(nats_url: str, store: Store, controls: Controls) -> AsyncIterator[Stage]:
    settings = AutoscalerSettings(nats_url=nats_url, provider_s=0.3)
    bus = Bus(nats_url, "autoscaler-test")
    await bus.connect(DEADLINE_S)
    stage = Stage(bus, Process("autoscaler", "autoscaler-test", settings, bus))
    await stage.listen()
    async with store.begin() as transaction:
        lease = await leases.acquire(transaction, "autoscaler-main", "autoscaler-test", ttl_s=60.0)
    assert lease is not None
    leadership = Leadership(store, lease, ttl_s=60.0)
    desk = Desk(store, leadership, "main", controls)
    await desk.open()
    loop = Loop(stage.process, LIMITS, POLICY, desk, stage.make_provider, lambda: stage.leads)
    running = asyncio.create_task(loop.run())
    await stage.plan_like(lambda _: True)
    yield stage
    stage.process.stopping.set()
    async with asyncio.timeout(DEADLINE_S):
        await running
    assert not stage.provider.workers, "workers end with the autoscaler"
    await stage.process.cancel_tasks()
    await leadership.release()
    await bus.close()


@pytest.fixture
async def stage(begin: Begin) -> Stage:
    return await begin(Controls(1, 3))


async def test_grows_with_demand_and_drains_when_it_has_gone(stage: Stage) -> None:
    first = await stage.plan_where(1, ["starting"])
    assert (first.minimum, first.maximum) == (1, 3)
    grown = await stage.plan_where(3, ["running"] * 3, demand=5)
    assert "5 active" in grown.reason
    shrunk = await stage.plan_where(1, ["running", "stopping", "stopping"], demand=0)
    assert set(shrunk.draining) == {"worker-2", "worker-3"}, "named until they have gone"
    assert {await stage.let_go.get(), await stage.let_go.get()} == {"worker-2", "worker-3"}


async def test_an_unexpected_end_is_told_at_once_and_replaced(stage: Stage) -> None:
    await stage.plan_where(1, ["starting"])
    stage.provider.end("worker-1", expected=False)
    exited = await stage.exited.get()
    assert exited == WorkerExited("worker-1", 1)
    plan = await stage.plan_where(1, ["starting", "exited"])
    assert {w.worker: (w.restarts, w.detail) for w in plan.workers} == {
        "worker-2": (1, ""),
        "worker-1": (0, "exit code 1: out of memory"),
    }
    assert plan.ended == [exited], "for a placement that didn't hear it"


async def test_a_worker_that_an_operator_drained_is_replaced_and_did_not_crash(stage: Stage) -> None:
    stage.drained = {"worker-1"}
    await stage.plan_where(1, ["running"], demand=0)
    stage.provider.end("worker-1", expected=False, exit_code=0)
    plan = await stage.plan_where(1, ["starting"])
    assert [(w.worker, w.restarts) for w in plan.workers] == [("worker-2", 0)]


async def test_a_provider_that_fails_or_hangs_is_tried_again_with_pauses_and_says_so(begin: Begin) -> None:
    stage = await begin(Controls(0, 3))
    await stage.plan_where(0, [])
    stage.provider.fails = [OSError("no such machine")]
    stage.provider.hangs = True
    told = await stage.plan_like(lambda plan: "the next starts in" in plan.reason, demand=1)
    assert told.workers == []
    await stage.plan_like(lambda plan: "the next starts in 1" in plan.reason, demand=1)
    stage.provider.hangs = False
    await stage.plan_where(1, ["running"], demand=1)


async def test_operators_settings_hold_at_once_and_after_a_restart(begin: Begin) -> None:
    stage = await begin(Controls(1, 3))
    answer = await stage.set(minimum=2, spare=1)
    assert (answer.minimum, answer.maximum, answer.spare) == (2, 3, 1)
    await stage.plan_where(2, ["running"] * 2, demand=0)
    stage = await begin(Controls(1, 3))
    again = await stage.plan_where(2, ["starting"] * 2)
    assert (again.minimum, again.maximum, again.spare) == (2, 3, 1)


async def test_what_cannot_be_set_is_refused_in_words_and_changes_nothing(stage: Stage) -> None:
    with pytest.raises(Refused, match="the minimum, 4, would be more than the maximum, 3") as refused:
        await stage.set(minimum=4, spare=2)
    assert refused.value.refusal.code == "invalid_field"
    assert (await stage.set()).spare == 0


async def test_a_dry_run_only_says_what_it_would(begin: Begin) -> None:
    stage = await begin(Controls(0, 3))
    await stage.set(dry_run=True)
    told = await stage.plan_like(lambda plan: plan.desired == 1, demand=2)
    assert (told.dry_run, told.would, told.workers) == (True, "start 1 worker", [])
    await stage.set(dry_run=False)
    await stage.plan_where(1, ["running"], demand=2)


async def test_who_may_not_lead_does_and_says_nothing(begin: Begin) -> None:
    stage = await begin(Controls(0, 3))
    await stage.plan_where(0, [])
    stage.leads = False
    async with asyncio.timeout(DEADLINE_S):
        while (await stage.set()).desired != 1:
            await stage.say_load(2)
    assert stage.provider.started == 0, "it wants a worker, but it isn't its to start"
    stage.leads = True
    await stage.plan_where(1, ["running"], demand=2)


async def test_a_placement_that_led_before_is_not_listened_to(begin: Begin) -> None:
    stage = await begin(Controls(0, 9))
    await stage.plan_where(1, ["running"], demand=2)
    await stage.say_load(0, "placement-2")
    told = await stage.plan_like(lambda plan: "0 active" in plan.reason)
    async with asyncio.timeout(DEADLINE_S):
        for demand in (3, 4, 5):
            while f"{demand} active" not in told.reason:
                await stage.say_load(demand, "placement-2")
                await stage.say_load(9)
                told = await stage.plans.get()
                assert "9 active" not in told.reason


async def test_who_was_let_go_and_stays_is_ended_again_and_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "_END_AGAIN_S", 0.0)
    asked: list[tuple[str, ...]] = []

    class Away(ListProvider):
        async def stop(self, workers: Sequence[str]) -> None:
            asked.append(tuple(workers))
            raise OSError("its API is away")

    settings = msgspec.structs.replace(stage.process.settings, drain_s=1e-6)
    process = Process("autoscaler", "hands-test", settings, stage.bus)
    provider = Away(lambda _: None)
    acting = hands.Hands(process, provider, lambda: True, lambda _: None, lambda: None)
    await provider.start()
    leaving = Leaving(0.0)
    assert await acting.carry_out(Steps(leaving, let_go=("worker-1",)))
    for times in (1, 2):
        while len(asked) < times:
            await acting.end_overdue()
    assert not await acting.carry_out(Steps(leaving, stop=("worker-2",))), "it isn't planned again at once"
    acting.forget("worker-1")
    await acting.end_overdue()
    assert asked == [("worker-1",), ("worker-1",), ("worker-2",)]


async def test_operators_settings_that_come_together_are_checked_against_each_other(stage: Stage) -> None:
    both = await asyncio.gather(stage.set(minimum=3), stage.set(maximum=2), return_exceptions=True)
    (refused,) = (one for one in both if isinstance(one, Refused))
    assert "would be more than the maximum" in refused.refusal.message


async def test_decisions_that_change_something_are_recorded_once(stage: Stage) -> None:
    told = await stage.plan_where(3, ["running"] * 3, demand=6)
    record = await _recorded(DecisionLog(stage.bus, "main"), told.decision)
    assert (record.service, record.policy_name) == ("autoscaler", "turboserve")
    assert "6 active" in record.reason
    view = msgspec.json.decode(unpack(record.view), type=View)
    assert view.active == 6
    told_again = await stage.plan_like(lambda plan: plan.sent_at > told.sent_at, demand=6)
    assert told_again.decision == told.decision, "nothing new since"


async def _recorded(log: DecisionLog, decision: str) -> DecisionRecord:
    async with asyncio.timeout(DEADLINE_S):
        while (record := await log.get(decision)) is None:
            await asyncio.sleep(0.02)
    return record


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


async def test_a_leader_of_before_sets_nothing(store: Store) -> None:
    async with store.begin() as transaction:
        lost = await leases.acquire(transaction, "autoscaler-main", "a-1", ttl_s=-1.0)
    async with store.begin() as transaction:
        assert await leases.acquire(transaction, "autoscaler-main", "a-2", ttl_s=60.0)
    assert lost is not None
    desk = Desk(store, Leadership(store, lost, 60.0), "main", Controls(1, 3))
    with pytest.raises(Refused, match="another autoscaler leads now"):
        await desk.set(SetFleet(maximum=9))
    await desk.open()
    assert desk.controls == Controls(1, 3)
