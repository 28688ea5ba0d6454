"""What the gateway knows of the fleet: placement's newest load, for readiness and for checking requests, and
the autoscaler's newest plan.
"""

from __future__ import annotations

import time

import msgspec

from services.gateway.admission import Model, Rules
from shared.bus import Bus, Meta
from shared.contracts.fleet import FleetLoad, FleetPlan, WorkerLoad
from shared.contracts.subjects import FLEET_LOAD, FLEET_PLAN

FRESH_S = 3.0  # placement says its load every second
_PLAN_FRESH_S = 5.0  # the autoscaler its plan; another one leads after as long


class Readiness(msgspec.Struct, frozen=True):
    """`reasons` says why it isn't ready; the counts are of the whole fleet."""

    ready: bool
    reasons: list[str]
    capacity: int
    active: int
    queued: int
    workers: int


class FleetWatch:
    """Hears `FleetLoad` and `FleetPlan`: who keeps saying them is alive."""

    def __init__(self, bus: Bus, cell: str, max_prompt_chars: int) -> None:
        self._bus = bus
        self._cell = cell
        self._max_prompt_chars = max_prompt_chars
        self._load: FleetLoad | None = None
        self._heard_at = 0.0
        self._plan: FleetPlan | None = None
        self._planned_at = 0.0

    async def start(self) -> None:
        await self._bus.subscribe(FLEET_LOAD, self._heard, cell=self._cell)
        await self._bus.subscribe(FLEET_PLAN, self._planned, cell=self._cell)

    def rules(self) -> Rules:
        """What requests are checked against now."""
        load = self._fresh()
        served = [Model(m.name, m.max_prompt_chars, m.rungs) for m in load.models] if load else []
        return Rules(served, self._max_prompt_chars)

    def readiness(self) -> Readiness:
        if not self._bus.connected_s:
            return _not_ready("NATS is away")
        load = self._fresh()
        if load is None:
            return _not_ready("placement is silent")
        ready_workers = sum(worker.state == "ready" for worker in load.workers)
        reasons = [] if ready_workers else ["no worker is ready"]
        return Readiness(not reasons, reasons, load.capacity, load.active, load.queued, ready_workers)

    def workers(self) -> list[WorkerLoad] | None:
        """As placement sees them, None while it is silent."""
        load = self._fresh()
        return None if load is None else load.workers

    def plan(self) -> FleetPlan | None:
        """The autoscaler's, None while it is silent."""
        return self._plan if time.monotonic() - self._planned_at < _PLAN_FRESH_S else None

    def _planned(self, plan: FleetPlan, _: Meta) -> None:
        self._plan = plan
        self._planned_at = time.monotonic()

    def _heard(self, load: FleetLoad, _: Meta) -> None:
        self._load = load
        self._heard_at = time.monotonic()

    def _fresh(self) -> FleetLoad | None:
        return self._load if time.monotonic() - self._heard_at < FRESH_S else None


def _not_ready(reason: str) -> Readiness:
    return Readiness(False, [reason], 0, 0, 0, 0)
