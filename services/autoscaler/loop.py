"""Observe, plan, carry out, tell: the autoscaler's one beat."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

import msgspec
from opentelemetry.trace import SpanKind, get_current_span

from services.autoscaler.desk import Desk
from services.autoscaler.hands import Hands
from services.autoscaler.outlook import Leaving
from services.autoscaler.plan import History, Limits, Plan, Seen, plan
from services.autoscaler.policies.view import Policy
from services.autoscaler.provider import Exit, OnExit, Provider
from services.autoscaler.recording import Recording
from services.autoscaler.settings import AutoscalerSettings
from services.autoscaler.telling import Ends, Teller
from shared import telemetry
from shared.bus import Meta
from shared.contracts.fleet import FleetLoad, FleetPlan, SetFleet
from shared.contracts.subjects import FLEET_LOAD, FLEET_PLAN, SET_FLEET, WORKER_EXITED
from shared.decision_log import Recorder
from shared.process import Process, StartupError

logger = logging.getLogger(__name__)

_BEAT_S = 1.0
_LEAST_S = 0.02
_CANCEL_S = 2.0


class Loop:
    """`provider` is made with the callback that tells of ended workers. `may_act`: whether this process still
    leads its cell for certain; while it may not, it does nothing and says nothing.
    """

    def __init__(
        self,
        process: Process[AutoscalerSettings],
        limits: Limits,
        policy: Policy,
        desk: Desk,
        provider: Callable[[OnExit], Provider],
        may_act: Callable[[], bool],
    ) -> None:
        self._process = process
        self._settings = process.settings
        self._policy = policy
        self._desk = desk
        self._may_act = may_act
        self._provider = provider(self._exited)
        self._limits = msgspec.structs.replace(
            limits, terms=msgspec.structs.replace(limits.terms, node_size=self._provider.node_size)
        )
        self._hands = Hands(process, self._provider, may_act, self._started, self._start_failed)
        self._teller = Teller(process.instance, self._settings.policy)
        self._recorder = Recorder(process.bus, self._settings.cell, "autoscaler", process.instance)
        self._recording = Recording(self._recorder, self._settings.policy, policy)
        self._ends = Ends()
        self._load: FleetLoad | None = None
        self._load_at = -math.inf
        self._history = History(Leaving(time.monotonic()))
        self._plan = self._look()
        self._work: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until the process is told to stop, or leads no longer; then ends the workers that can't be without
        it. Raises StartupError.
        """
        await self._open_provider()
        await self._process.bus.subscribe(FLEET_LOAD, self._observe, cell=self._settings.cell)
        await self._process.bus.serve(SET_FLEET, self._set, cell=self._settings.cell)
        self._process.spawn("record decisions", self._recorder.run())
        self._process.spawn("wake at stop", self._wake_at_stop())
        controls = self._desk.controls
        await self._process.ready(f"workers: at least {controls.minimum}, at most {controls.maximum}")
        try:
            while not self._process.stopping.is_set():
                self._wake.clear()
                if self._may_act():
                    await self._beat()
                await self._sleep(min(self._plan.ask_again_s, _BEAT_S))
        finally:
            await self._process.say("stopping", "ending the workers")
            await self._cancel_work()
            await self._provider.close()

    async def _open_provider(self) -> None:
        try:
            async with asyncio.timeout(self._settings.provider_s):
                await self._provider.open()
        except (OSError, TimeoutError) as error:
            raise StartupError(f"provider {self._settings.provider!r} can't be used: {error}") from None

    async def _wake_at_stop(self) -> None:
        await self._process.stopping.wait()
        self._wake.set()

    async def _sleep(self, longest_s: float) -> None:
        await asyncio.sleep(_LEAST_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, longest_s - _LEAST_S)):
                await self._wake.wait()

    async def _cancel_work(self) -> None:
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait({self._work}, timeout=_CANCEL_S)

    async def _beat(self) -> None:
        """Nothing is planned while something is being done, so that nothing is done twice; it is told all the
        same.
        """
        if self._work is None or self._work.done():
            self._plan = self._look()
            self._history = self._plan.history
            self._recording.take(self._plan)
            self._work = self._process.spawn("carry out", self._carry_out(self._plan))
        await self._process.bus.publish(FLEET_PLAN.at(cell=self._settings.cell), self._message(self._plan))

    async def _carry_out(self, planned: Plan) -> None:
        """What failed is tried again at the next beat, not at once."""
        if planned.steps and await self._hands.carry_out(planned.steps):
            self._wake.set()
        await self._hands.end_overdue()

    def _seen(self) -> Seen:
        return Seen(self._provider.members(), self._load, self._load_at)

    def _look(self) -> Plan:
        controls, now = self._desk.controls, time.monotonic()
        return plan(self._seen(), self._history, self._policy, controls, self._limits, now)

    def _observe(self, load: FleetLoad, meta: Meta) -> None:
        """Placement spoke. If it did so on behalf of a traced request, what follows from it belongs to that
        trace. One that led before may know no better yet: its word counts no more.
        """
        if load.placement in self._history.knowledge.former:
            return
        self._load, self._load_at = load, time.monotonic()
        self._wake.set()
        if not get_current_span(meta.context).get_span_context().is_valid:
            return
        with telemetry.tracer.start_as_current_span(
            "autoscaler.observe", context=meta.context, kind=SpanKind.CONSUMER
        ) as span:
            coming = self._look()
            span.set_attributes(
                {
                    "turboserve.sessions.active": load.active,
                    "turboserve.sessions.queued": load.queued,
                    "turboserve.workers.desired": coming.desired,
                    "turboserve.nodes.to_start": coming.steps.start,
                    "turboserve.plan.reason": coming.reason,
                }
            )

    async def _set(self, asked: SetFleet, _: Meta) -> FleetPlan:
        await self._desk.set(asked)
        self._wake.set()
        return self._message(self._look())

    def _started(self, workers: list[str]) -> None:
        self._history = self._history.ordered(workers, time.monotonic())
        for worker in workers:
            self._ends.started(worker, len(self._history.crashes.at))

    def _start_failed(self) -> None:
        self._history = self._history.crashed(time.monotonic(), in_vain=False)

    def _exited(self, ended: Exit) -> None:
        now = time.monotonic()
        self._hands.forget(ended.worker)
        self._ends.ended(ended)
        self._history = self._history.ended(ended.worker, now)
        if ended.expected or (ended.exit_code == 0 and self._drained(ended.worker)):
            logger.info("%s ended: %s", ended.worker, ended.detail)
        else:
            logger.warning("%s ended unexpectedly: %s", ended.worker, ended.detail)
            self._ends.unexpected(ended)
            in_vain = ended.worker in self._history.knowledge.ordered
            self._history = self._history.crashed(now, in_vain=in_vain)
        self._wake.set()
        self._process.spawn(f"tell of {ended.worker}", self._tell(ended))

    def _drained(self, worker: str) -> bool:
        """Whether an operator drains it, as placement said."""
        workers = self._load.workers if self._load else []
        return any(known.worker == worker and known.state == "draining" for known in workers)

    async def _tell(self, ended: Exit) -> None:
        """Placement takes its sessions elsewhere at once, instead of after its silence."""
        address = WORKER_EXITED.at(cell=self._settings.cell, worker=ended.worker)
        await self._process.bus.publish(address, ended.told)

    def _message(self, planned: Plan) -> FleetPlan:
        decision, controls = self._recording.decision, self._desk.controls
        return self._teller.message(planned, decision, controls, self._seen(), self._ends)
