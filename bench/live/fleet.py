"""What the live fleet says of itself, asked for twice a second: who is paid for, who is how quick."""

from __future__ import annotations

import asyncio

from bench.live.house import House
from bench.sim.parts import SimWorker
from turboserve.client import Client
from turboserve.errors import TurboserveError
from turboserve.messages import FleetInfo, WorkerInfo

_EVERY_S = 0.5
_PAID = frozenset({"starting", "running", "stopping"})


class FleetWatch:
    """Workers that placement knows are paid for, and those that the autoscaler has ordered. `plan` None: no
    autoscaler speaks. `boots_s`: from a worker's order to its readiness, as seen.
    """

    def __init__(self, house: House, client: Client) -> None:
        self.plan: FleetInfo | None = None
        self.most_workers = 0
        self.boots_s: list[float] = []
        self._house = house
        self._client = client
        self._paid: dict[str, SimWorker] = {}
        self._ordered_s: dict[str, float] = {}
        self._on_host: dict[str, int] = {}
        self._shape: tuple[frozenset[str], frozenset[str]] | None = None

    async def run(self) -> None:
        """For ever. What can't be had now is asked for again: until then all is as it was."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.look()
            except TurboserveError:
                continue

    async def look(self) -> None:
        """Raises TurboserveError."""
        workers = await self._client.workers()
        try:
            self.plan = await self._client.fleet()
        except TurboserveError as error:
            if error.code != "autoscaler_away":
                raise
            self.plan = None
        self._house.now()
        for worker in workers:
            self._told(worker)
        self._pay({worker.id for worker in workers} | self._ordered())
        self._boots({worker.id for worker in workers if worker.state == "ready"})
        self._scaled()

    def _told(self, worker: WorkerInfo) -> None:
        if worker.state != "starting":
            self._house.told(worker.id, worker.latency_s, worker.capacity)
        on_host, before = worker.copies_by_tier.host, self._on_host.get(worker.id)
        self._on_host[worker.id] = on_host
        if before is not None:
            self._house.meter.suspends += max(0, on_host - before)

    def _ordered(self) -> set[str]:
        return {one.worker for one in self.plan.workers if one.state in _PAID} if self.plan else set()

    def _pay(self, paid: set[str]) -> None:
        meter = self._house.meter
        for name in paid - self._paid.keys():
            self._paid[name] = self._house.worker(name)
            meter.rent(self._paid[name], 1)
        for name in self._paid.keys() - paid:
            meter.rent(self._paid.pop(name), -1)
        self.most_workers = max(self.most_workers, len(self._paid))

    def _boots(self, ready: set[str]) -> None:
        now_s = self._house.now_s
        first = self._shape is None
        for name in self._paid:
            if name not in self._ordered_s:
                self._ordered_s[name] = -1.0 if first else now_s
            if name in ready and self._ordered_s[name] > 0.0:
                self.boots_s.append(now_s - self._ordered_s[name])
                self._ordered_s[name] = -1.0

    def _scaled(self) -> None:
        """Several changes between two looks count as one."""
        draining = frozenset(self.plan.draining) if self.plan else frozenset()
        shape, before = (frozenset(self._paid), draining), self._shape
        self._shape = shape
        self._house.meter.scale_events += before is not None and shape != before
