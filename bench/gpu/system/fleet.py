"""What workers say of themselves while sessions play: copies, devices, vitals."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from bench.gpu.system.move_times import MoveTimes
from bench.vitals import VitalsWatch
from shared.bus import Bus, Meta
from shared.contracts.fleet import DeviceReport, LoadReport, WorkerExited
from shared.contracts.subjects import LOAD_REPORT, MOVE_NEWS, WORKER_EXITED
from shared.ids import DEFAULT_CELL

_POLL_S = 0.1
_AFTER_ALL_S = 2.2
"""Load reports and vitals are a second old at most."""


class DeviceUse(NamedTuple):
    """Over a spell. None: the device doesn't tell."""

    utilisation_ratio: float | None
    memory_gib: float
    power_w: float | None


class Held(NamedTuple):
    """By a worker, at one moment. Memory is of the whole device."""

    device_bytes: int
    copies: int
    on_device: int
    tasks: int
    subscriptions: int
    open_files: int


class Fleet:
    def __init__(self, bus: Bus) -> None:
        self.reports: dict[str, LoadReport] = {}
        self.ready_at: dict[str, float] = {}
        self.vitals = VitalsWatch(bus)
        self.moves = MoveTimes()
        self._bus = bus
        self._devices: dict[str, list[tuple[float, DeviceReport]]] = defaultdict(list)

    async def start(self) -> None:
        await self._bus.subscribe(LOAD_REPORT, self._heard)
        await self._bus.subscribe(MOVE_NEWS, self.moves.hear)
        await self.vitals.start()

    async def close(self) -> None:
        await self._bus.close()

    async def tell_end(self, worker: str) -> None:
        """As the autoscaler does of one that it has started."""
        exited = WorkerExited(worker, -signal.SIGKILL, self.reports[worker].incarnation)
        await self._bus.publish(WORKER_EXITED.at(cell=DEFAULT_CELL, worker=worker), exited)
        await self._bus.flush()

    def _heard(self, report: LoadReport, _: Meta) -> None:
        now = time.monotonic()
        self.reports[report.worker] = report
        if report.state == "ready":
            self.ready_at.setdefault(report.worker, now)
        self._devices[report.worker].append((now, report.device))

    async def ready(self, workers: int, check: Callable[[], None]) -> None:
        """Give it a deadline. `check` raises if there is no hope."""
        while len(self.ready_at) < workers:
            check()
            await asyncio.sleep(_POLL_S)

    def use(self, worker: str, since: float) -> DeviceUse:
        told = [device for at, device in self._devices[worker] if at >= since]
        use = [device.utilisation_ratio for device in told if device.utilisation_ratio is not None]
        power = [device.power_w for device in told if device.power_w is not None]
        memory = max((device.memory_used_bytes for device in told), default=0)
        return DeviceUse(
            statistics.fmean(use) if use else None,
            memory / 2**30,
            statistics.fmean(power) if power else None,
        )

    async def held(self) -> dict[str, Held]:
        """Once all reports under way are in."""
        await asyncio.sleep(_AFTER_ALL_S)
        newest = self.vitals.newest()
        return {
            worker: Held(
                report.device.memory_used_bytes if report.device.kind != "cpu" else 0,
                len(report.copies),
                sum(copy.tier == "device" for copy in report.copies),
                newest[worker].tasks,
                newest[worker].subscriptions,
                newest[worker].open_files,
            )
            for worker, report in self.reports.items()
        }

    async def back_at(self, before: dict[str, Held], deadline_s: float) -> dict[str, Held]:
        """What is held once all is as `before`, or at the deadline."""
        ends_at = time.monotonic() + deadline_s
        while (now := await self.held()) != before and time.monotonic() < ends_at:
            pass
        return now
