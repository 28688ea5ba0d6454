"""Observe, plan, apply: the autoscaler's one beat."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable

from opentelemetry.trace import SpanKind, get_current_span

from services.autoscaler.plan import History, Limits, Plan, Seen, plan
from services.autoscaler.provider import Exit, OnExit, Provider
from services.autoscaler.settings import AutoscalerSettings
from shared import telemetry
from shared.bus import BusAway, Meta, NoAnswer, Refused
from shared.contracts.fleet import Drain, FleetLoad, FleetPlan, FleetWorker, WorkerExited
from shared.contracts.subjects import DRAIN, FLEET_LOAD, FLEET_PLAN, WORKER_EXITED
from shared.process import Process

logger = logging.getLogger(__name__)

_BEAT_S = 1.0
_DRAIN_ANSWER_S = 2.0
_EXITS_SHOWN = 8
_EXIT_SHOWN_S = 30.0


class Loop:
    """`provider` is made with the callback that tells of ended workers."""

    def __init__(
        self, process: Process[AutoscalerSettings], limits: Limits, provider: Callable[[OnExit], Provider]
    ) -> None:
        self._process = process
        self._settings = process.settings
        self._limits = limits
        self._provider = provider(self._exited)
        self._load: FleetLoad | None = None
        self._load_at = -math.inf
        self._history = History()
        self._wake = asyncio.Event()
        self._exits: deque[tuple[float, Exit]] = deque(maxlen=_EXITS_SHOWN)
        self._drain_until: dict[str, float] = {}
        self._restarts: dict[str, int] = {}
        self._reason = ""

    async def run(self) -> None:
        """Until the process is told to stop; then ends all workers."""
        await self._process.bus.subscribe(FLEET_LOAD, self._observe, cell=self._settings.cell)
        self._process.spawn("wake at stop", self._wake_at_stop())
        await self._process.ready(f"workers: at least {self._limits.minimum}, at most {self._limits.maximum}")
        try:
            while not self._process.stopping.is_set():
                self._wake.clear()
                decision = self._decide()
                await self._apply(decision)
                await self._publish(decision)
                await self._sleep(min(decision.ask_again_s, _BEAT_S))
        finally:
            await self._process.say("stopping", "ending the workers")
            await self._provider.stop([m.worker for m in self._provider.members()])

    async def _wake_at_stop(self) -> None:
        await self._process.stopping.wait()
        self._wake.set()

    async def _sleep(self, longest_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._wake.wait()

    def _observe(self, load: FleetLoad, meta: Meta) -> None:
        """Placement spoke. If it did so on behalf of a traced request, what follows from it belongs to that
        trace.
        """
        self._load, self._load_at = load, time.monotonic()
        self._wake.set()
        if not get_current_span(meta.context).get_span_context().is_valid:
            return
        with telemetry.tracer.start_as_current_span(
            "autoscaler.observe", context=meta.context, kind=SpanKind.CONSUMER
        ) as span:
            decision = self._decide()
            span.set_attributes(
                {
                    "turboserve.sessions.active": load.active,
                    "turboserve.sessions.queued": load.queued,
                    "turboserve.workers.desired": decision.desired,
                    "turboserve.workers.to_start": decision.start,
                    "turboserve.plan.reason": decision.reason,
                }
            )

    def _decide(self) -> Plan:
        seen = Seen(self._provider.members(), self._load, self._load_at)
        decision = plan(seen, self._history, self._limits, time.monotonic())
        self._history = decision.history
        return decision

    async def _apply(self, decision: Plan) -> None:
        for worker, reason in decision.kill.items():
            logger.error("ending %s: %s", worker, reason)
            await self._provider.kill(worker)
        for worker in decision.drain:
            await self._drain(worker)
        for _ in range(decision.start):
            if not self._process.stopping.is_set():
                await self._start()
        self._end_overdue()

    async def _start(self) -> None:
        try:
            worker = await self._provider.start()
        except OSError as error:
            logger.error("a worker can't be started: %s", error)
            self._history = self._history.crashed(time.monotonic())
        else:
            self._restarts[worker] = len(self._history.crashes)

    async def _drain(self, worker: str) -> None:
        """Without an answer nothing is lost: the next plan asks again."""
        address = DRAIN.at(cell=self._settings.cell, worker=worker)
        until = time.time() + self._settings.drain_s
        try:
            await self._process.bus.request(address, Drain(deadline_at=until), _DRAIN_ANSWER_S)
        except (BusAway, NoAnswer, Refused) as error:
            logger.warning("%s was not drained: %s", worker, error)
            return
        logger.info("draining %s", worker)
        self._provider.release(worker)
        self._drain_until[worker] = time.monotonic() + self._settings.drain_s

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [w for w, until in self._drain_until.items() if now > until]:
            del self._drain_until[worker]
            self._process.spawn(f"stop {worker}", self._provider.stop([worker]))

    def _exited(self, ended: Exit) -> None:
        self._drain_until.pop(ended.worker, None)
        self._restarts.pop(ended.worker, None)
        if ended.expected or (ended.exit_code == 0 and self._draining(ended.worker)):
            logger.info("%s ended: %s", ended.worker, ended.detail)
        else:
            logger.warning("%s ended unexpectedly: %s", ended.worker, ended.detail)
            self._exits.append((time.monotonic(), ended))
            self._history = self._history.crashed(time.monotonic())
        self._wake.set()
        self._process.spawn(f"tell of {ended.worker}", self._tell(ended))

    def _draining(self, worker: str) -> bool:
        """Whether an operator drains it, as placement said."""
        workers = self._load.workers if self._load else []
        return any(known.worker == worker and known.state == "draining" for known in workers)

    async def _tell(self, ended: Exit) -> None:
        address = WORKER_EXITED.at(cell=self._settings.cell, worker=ended.worker)
        await self._process.bus.publish(address, WorkerExited(ended.worker, ended.exit_code))

    async def _publish(self, decision: Plan) -> None:
        if decision.reason != self._reason:
            self._reason = decision.reason
            logger.info("workers wanted: %d (%s)", decision.desired, decision.reason)
        message = FleetPlan(
            autoscaler=self._process.instance,
            desired=decision.desired,
            minimum=self._limits.minimum,
            maximum=self._limits.maximum,
            reason=decision.reason,
            workers=self._workers(decision.failed),
            sent_at=time.time(),
        )
        await self._process.bus.publish(FLEET_PLAN.at(cell=self._settings.cell), message)

    def _workers(self, failed: bool) -> list[FleetWorker]:
        """Those that run, and those that lately ended though nobody had asked them to."""
        heard = {w.worker for w in self._load.workers if w.state != "starting"} if self._load else set()
        running = [
            FleetWorker(
                m.worker,
                "stopping" if m.state == "stopping" else "running" if m.worker in heard else "starting",
                self._restarts.get(m.worker, 0),
            )
            for m in self._provider.members()
        ]
        recent_s = math.inf if failed else _EXIT_SHOWN_S
        now = time.monotonic()
        ended = [
            FleetWorker(e.worker, "failed" if failed else "exited", detail=e.detail)
            for at, e in self._exits
            if now - at < recent_s
        ]
        return running + ended
