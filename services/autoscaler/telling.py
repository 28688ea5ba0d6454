"""What the autoscaler tells: its newest plan, with the workers as their provider sees them."""

from __future__ import annotations

import math
import time
from collections import deque

import msgspec

from services.autoscaler.controls import Controls
from services.autoscaler.plan import Plan, Seen
from services.autoscaler.provider import Exit
from shared.contracts.fleet import FleetPlan, FleetWorker, WorkerExited

_EXITS_SHOWN = 8
_EXIT_SHOWN_S = 30.0
_ENDED_TOLD = 64
_ENDED_TOLD_S = 30.0


class Ends:
    """Workers that lately ended, those among them that nobody had asked to, and how many such there had been
    when a worker started.
    """

    def __init__(self) -> None:
        self._exits: deque[tuple[float, Exit]] = deque(maxlen=_EXITS_SHOWN)
        self._all: deque[tuple[float, WorkerExited]] = deque(maxlen=_ENDED_TOLD)
        self._restarts: dict[str, int] = {}

    def started(self, worker: str, crashes: int) -> None:
        self._restarts[worker] = crashes

    def ended(self, exited: Exit) -> None:
        self._restarts.pop(exited.worker, None)
        self._all.append((time.monotonic(), exited.told))

    def lately(self) -> list[WorkerExited]:
        now = time.monotonic()
        return [told for at, told in self._all if now - at < _ENDED_TOLD_S]

    def unexpected(self, exited: Exit) -> None:
        self._exits.append((time.monotonic(), exited))

    def restarts(self, worker: str) -> int:
        return self._restarts.get(worker, 0)

    def shown(self, *, failed: bool) -> list[FleetWorker]:
        recent_s = math.inf if failed else _EXIT_SHOWN_S
        now = time.monotonic()
        state = "failed" if failed else "exited"
        return [FleetWorker(e.worker, state, detail=e.detail) for at, e in self._exits if now - at < recent_s]


class Teller(msgspec.Struct, frozen=True):
    """`policy`: its name."""

    instance: str
    policy: str

    def message(self, plan: Plan, decision: str, controls: Controls, seen: Seen, ends: Ends) -> FleetPlan:
        """`decision`: the id of the one recorded last."""
        return FleetPlan(
            autoscaler=self.instance,
            desired=plan.desired,
            minimum=controls.minimum,
            maximum=controls.maximum,
            reason=plan.reason,
            workers=_running(seen, ends) + ends.shown(failed=plan.failed),
            sent_at=time.time(),
            draining=_draining(plan, seen),
            policy=self.policy,
            decision=decision,
            spare=controls.spare,
            frozen=controls.frozen,
            dry_run=controls.dry_run,
            would=plan.would,
            ended=ends.lately(),
        )


def _draining(plan: Plan, seen: Seen) -> list[str]:
    """Who was told to go stays named until it has gone."""
    draining = plan.steps.leaving.draining
    return [m.worker for m in seen.members if m.worker in draining]


def _running(seen: Seen, ends: Ends) -> list[FleetWorker]:
    heard = {w.worker for w in seen.load.workers if w.state != "starting"} if seen.load else set()
    return [
        FleetWorker(
            m.worker,
            "stopping" if m.state == "stopping" else "running" if m.worker in heard else "starting",
            ends.restarts(m.worker),
            m.detail,
        )
        for m in seen.members
    ]
