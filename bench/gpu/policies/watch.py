"""What the fleet says on the bus while a trace plays: boots, moves, states that leave a device and return."""

from __future__ import annotations

import time
from collections.abc import Mapping

from shared.bus import Bus, Meta
from shared.contracts.fleet import FleetLoad, FleetPlan, LoadReport, WorkerExited
from shared.contracts.moves import MoveNews
from shared.contracts.subjects import FLEET_LOAD, FLEET_PLAN, LOAD_REPORT, MOVE_NEWS, WORKER_EXITED


class Watch:
    """`boots_s`: of each worker, from the autoscaler's order to its readiness. `load`: placement's newest
    word. `in_vain`: workers that failed before they were ready. `suspends`, `resumes`: of states, since
    `forget`.
    """

    def __init__(self) -> None:
        self.boots_s: dict[str, float] = {}
        self.reports: dict[str, LoadReport] = {}
        self.load: FleetLoad | None = None
        self.in_vain: set[str] = set()
        self.suspends = self.resumes = 0
        self._ordered_at: dict[str, float] = {}
        self._tiers: dict[str, dict[str, str]] = {}
        self._frozen_at: dict[str, float] = {}
        self._arrived_at: dict[str, float] = {}

    async def listen(self, bus: Bus) -> None:
        await bus.subscribe(FLEET_PLAN, self._planned)
        await bus.subscribe(FLEET_LOAD, self._loaded)
        await bus.subscribe(LOAD_REPORT, self.reported)
        await bus.subscribe(MOVE_NEWS, self.moved)
        await bus.subscribe(WORKER_EXITED, self._ended)

    def forget(self) -> None:
        self.suspends = self.resumes = 0
        self._frozen_at.clear()
        self._arrived_at.clear()

    def pauses_s(self) -> list[float]:
        """Of moves with their state: from the source's freeze until the target could go on, by two clocks."""
        arrived = self._arrived_at.items()
        return [at - self._frozen_at[move] for move, at in arrived if move in self._frozen_at]

    def ready(self, besides: str) -> int | None:
        """How many workers the newest placement knows, all of them ready; None: some aren't, or `besides` is
        still the newest.
        """
        if self.load is None or self.load.placement == besides:
            return None
        workers = self.load.workers
        return len(workers) if all(w.state == "ready" and w.latency_s for w in workers) else None

    def _planned(self, plan: FleetPlan, _: Meta) -> None:
        for worker in plan.workers:
            self._ordered_at.setdefault(worker.worker, time.monotonic())

    def _ended(self, ended: WorkerExited, _: Meta) -> None:
        if ended.exit_code and ended.worker not in self.boots_s:
            self.in_vain.add(ended.worker)

    def _loaded(self, load: FleetLoad, _: Meta) -> None:
        self.load = load

    def reported(self, report: LoadReport, _: Meta | None = None) -> None:
        worker = report.worker
        self.reports[worker] = report
        if report.state == "ready" and worker in self._ordered_at:
            self.boots_s.setdefault(worker, time.monotonic() - self._ordered_at[worker])
        tiers = {copy.session: copy.tier for copy in report.copies}
        before: Mapping[str, str] = self._tiers.get(worker, {})
        changes = [(before[session], tier) for session, tier in tiers.items() if session in before]
        self.suspends += changes.count(("device", "host"))
        self.resumes += changes.count(("host", "device"))
        self._tiers[worker] = tiers

    def moved(self, news: MoveNews, _: Meta | None = None) -> None:
        if news.state == "frozen":
            self._frozen_at[news.move_id] = news.at
        elif news.state in ("arrived", "owner"):
            self._arrived_at.setdefault(news.move_id, news.at)
