"""Workers between which sessions may move, and which of them a session belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from services.placement.policies.view import Worker
from shared.contracts.fleet import LoadReport, ModelReport
from shared.contracts.moves import Compatibility, compatibility_of
from shared.store.rows import SessionRow


class _Kind(NamedTuple):
    """What workers must share to be of one group: sessions may be moved between them."""

    model: str
    state: Compatibility
    rungs: tuple[str, ...]


class Groups:
    """Workers between which sessions may move. Mostly each model has one; while its weights are replaced it
    has two. A worker that starts knows no more of its model than the name, and makes none.
    """

    def __init__(self, reports: Sequence[LoadReport]) -> None:
        self._kinds: dict[_Kind, str] = {}
        self.of_worker: dict[str, str] = {}
        self._told: dict[str, LoadReport] = {}
        self._free: Counter[str] = Counter()
        self._transports = {report.worker: frozenset(report.transports) for report in reports}
        self._ready: set[str] = set()
        self._ready_by: dict[str, Counter[str]] = {}
        self._named: tuple[ModelReport, str] | None = None
        for report in reports:
            starts = report.state == "starting"
            group = report.model.name if starts else self._name(report.model)
            self.of_worker[report.worker] = group
            if starts:
                continue
            if report.state == "ready" or group not in self._told:
                self._told[group] = report
            if report.state == "ready":
                self._ready.add(report.worker)
                self._ready_by.setdefault(group, Counter()).update(self._transports[report.worker])

    def _name(self, model: ModelReport) -> str:
        """Neighbours mostly serve the same, which is seen sooner than worked out."""
        if self._named is None or self._named[0] != model:
            kind = _Kind(model.name, compatibility_of(model), tuple(model.rungs))
            if kind not in self._kinds:
                others = sum(known.model == model.name for known in self._kinds)
                self._kinds[kind] = f"{model.name}#{others + 1}" if others else model.name
            self._named = model, self._kinds[kind]
        return self._named[1]

    def fill(self, workers: Iterable[Worker], going_to: Iterable[str]) -> None:
        """How many places each group has left. `going_to`: where sessions are or go."""
        for worker in workers:
            if worker.state == "ready":
                self._free[worker.group] += worker.capacity
        self._free.subtract(Counter(self.of_worker.get(worker, "") for worker in going_to))

    def of(self, row: SessionRow, going_to: str, home: str) -> str:
        """Where a waiting session is looked after: with its state while there is room, else where most is."""
        if going_to:
            return self.of_worker.get(going_to, row.model)
        found = self._serving(row)
        if not found:
            return row.model
        at_home = self.of_worker.get(home, "")
        group = at_home if at_home in found and self._free[at_home] > 0 else max(found, key=self._room)
        self._free[group] -= 1
        return group

    def _room(self, group: str) -> int:
        return self._free[group]

    def _serving(self, row: SessionRow) -> list[str]:
        return [
            group
            for kind, group in self._kinds.items()
            if kind.model == row.model and (not row.rung or row.rung in kind.rungs)
        ]

    def linked(self, home: str) -> bool:
        """Whether a worker that takes sessions shares a transport with `home`."""
        there = self._ready_by.get(self.of_worker.get(home, ""), Counter())
        itself = home in self._ready
        return any(there[transport] > itself for transport in self._transports.get(home, ()))

    def told(self, group: str) -> LoadReport | None:
        """A report of one of its workers."""
        return self._told.get(group)
