"""What `turboserve up` shows: one line whenever a service's state changes, from their own words on the
bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import click

from shared.bus import Bus, Meta
from shared.contracts.fleet import FleetPlan, LoadReport, ServiceStatus
from shared.contracts.subjects import FLEET_PLAN, LOAD_REPORT, SERVICE_STATUS

_COLOURS = {
    "ready": "green",
    "stopped": "bright_black",
    "starting": "cyan",
    "ended": "red",
    "exited": "red",
    "failed": "red",
    "killed": "red",
    "error": "red",
    "gave up": "red",
}
_NAME_CHARS = 14
_STATE_CHARS = 9


def show(text: str) -> None:
    """Print, unless the terminal has gone: that must not keep the launcher from stopping what it started."""
    with contextlib.suppress(OSError):
        click.echo(text)


class Board:
    """`on_ready(service)` is called whenever a service says it is ready, `on_no_worker(why)` if a worker ends
    before any was ready. `first_worker` is set by the first ready one.
    """

    def __init__(self, on_ready: Callable[[str], None], on_no_worker: Callable[[str], None]) -> None:
        self.first_worker = asyncio.Event()
        self._on_ready = on_ready
        self._on_no_worker = on_no_worker
        self._states: dict[str, str] = {}
        self._ends_told: set[str] = set()
        self._desired: int | None = None
        self._given_up = False

    async def listen(self, bus: Bus, cell: str) -> None:
        await bus.subscribe(SERVICE_STATUS, self._service, cell=cell)
        await bus.subscribe(LOAD_REPORT, self._worker, cell=cell)
        await bus.subscribe(FLEET_PLAN, self._fleet, cell=cell)

    def say(self, name: str, state: str, detail: str = "") -> None:
        """Print the line if the state is not the one shown last."""
        if self._states.get(name) == state:
            return
        self._states[name] = state
        self.tell(name, state, detail)

    def tell(self, name: str, state: str, detail: str) -> None:
        """Print the line whatever was shown last."""
        shown = click.style(state.ljust(_STATE_CHARS), fg=_COLOURS.get(state, "yellow"))
        show(f"  {name.ljust(_NAME_CHARS)} {shown} {detail}".rstrip())

    def state(self, name: str) -> str:
        return self._states.get(name, "unknown")

    def _service(self, status: ServiceStatus, _: Meta) -> None:
        if status.service == "worker" or status.state in ("starting", "stopping", "stopped"):
            return  # the launcher and the reports of workers tell these sooner
        if self._states.get(status.service) in ("stopping", "stopped", "killed", "ended", None):
            return  # a late word
        self.say(status.service, status.state, status.detail)
        if status.state == "ready":
            self._on_ready(status.service)

    def _worker(self, report: LoadReport, _: Meta) -> None:
        details = {
            "starting": "loading its model",
            "ready": f"{report.model.name} on {report.device.name}, room for {_sessions(report.capacity)}",
        }
        self.say(report.worker, report.state, details.get(report.state, ""))
        if report.state == "ready":
            self.first_worker.set()

    def _fleet(self, plan: FleetPlan, _: Meta) -> None:
        for worker in plan.workers:
            if worker.state == "starting" and worker.worker not in self._states:
                self.say(worker.worker, "starting", "")
            if worker.state in ("exited", "failed") and worker.worker not in self._ends_told:
                self._worker_ended(worker.worker, worker.detail)
        given_up = any(worker.state == "failed" for worker in plan.workers)
        if given_up and not self._given_up:
            self.tell("autoscaler", "gave up", plan.reason)
        self._given_up = given_up
        if self._desired is not None and self._desired != plan.desired:
            self.tell("autoscaler", "wants", f"{_workers(plan.desired)}: {plan.reason}")
        self._desired = plan.desired

    def _worker_ended(self, worker: str, detail: str) -> None:
        self._ends_told.add(worker)
        self.say(worker, "ended", detail)
        if not self.first_worker.is_set():
            self._on_no_worker(f"{worker} ended before it was ready: {detail}")


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
