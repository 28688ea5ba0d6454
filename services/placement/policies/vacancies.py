"""Where there is room for sessions that take the same, and how long a chunk takes there with one of them.

Looked for once in a decision and kept up to date with what the decision does: to go through a thousand
workers for each of a hundred sessions that wait would take longer than anybody has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

from services.placement.policies.view import Worker

_ROUNDING = 1e-9
"""Of sums of weights."""


class Wanted(NamedTuple):
    """`beyond`: capacity doesn't count, only slots do."""

    group: str
    weight: float
    beyond: bool


class Vacancies:
    """`workers`: those with room, in their order. `latencies_s`, `prices`: of each, a chunk's latency with
    one session more, and what a place costs.
    """

    def __init__(
        self,
        wanted: Wanted,
        ready: Sequence[Worker],
        loads: Mapping[str, float],
        counts: Mapping[str, int],
        among: Sequence[int] | None = None,
    ) -> None:
        """`loads` and `counts` of the workers by name; they change, which `look_at` is told of. `among`:
        those of `ready` that have room, None: to be found out.
        """
        self._wanted = wanted
        self._loads = loads
        self._counts = counts
        self._ready = ready
        self._at = list(compress(range(len(ready)), self._fit(ready)) if among is None else among)
        self.workers = [ready[index] for index in self._at]
        self.latencies_s = latencies_s(self.workers, loads, wanted.weight)
        self.prices = [_price(worker) for worker in self.workers]

    def look_at(self, index: int, worker: Worker) -> None:
        """What `worker` has is another load now. `index`: of it among the ready ones."""
        place = bisect_left(self._at, index)
        listed = place < len(self._at) and self._at[place] == index
        rows = self._at, self.workers, self.latencies_s, self.prices
        if listed:
            for row in rows:
                del row[place]
        if self._fit([worker])[0]:
            with_it_s = latency_s(worker, self._loads[worker.worker] + self._wanted.weight)
            self._at.insert(place, index)
            self.workers.insert(place, worker)
            self.latencies_s.insert(place, with_it_s)
            self.prices.insert(place, _price(worker))

    def _fit(self, workers: Sequence[Worker]) -> list[bool]:
        loads, counts = self._loads, self._counts
        group, beyond, weight = self._wanted.group, self._wanted.beyond, self._wanted.weight - _ROUNDING
        return [
            w.group == group
            and counts[w.worker] < w.slots
            and (beyond or loads[w.worker] + weight <= w.capacity)
            for w in workers
        ]

    def place_of(self, index: int | None) -> int | None:
        """Of the ready worker of that index in the lists; None: it has no room."""
        place = 0 if index is None else bisect_left(self._at, index)
        return place if index is not None and self._at[place : place + 1] == [index] else None

    def without(self, avoid: Collection[str]) -> Vacancies:
        """As they are now, without those; all if there are no others."""
        left = [index for index, w in zip(self._at, self.workers, strict=True) if w.worker not in avoid]
        if not left or len(left) == len(self._at):
            return self
        return Vacancies(self._wanted, self._ready, self._loads, self._counts, left)


def latency_s(worker: Worker, load: float) -> float:
    """Of a chunk there. What doesn't fit takes for ever."""
    if load > worker.slots:
        return float("inf")
    whole = int(load)
    below_s = worker.latency_s[whole]
    part = load - whole
    if part <= _ROUNDING:
        return below_s
    return below_s + part * (worker.latency_s[min(whole + 1, worker.slots)] - below_s)


def latencies_s(workers: Sequence[Worker], loads: Mapping[str, float], more: float) -> list[float]:
    """Of a chunk on each, with `more` load than now. Whole loads without a call, since there are so many."""
    return [
        w.latency_s[whole]
        if (whole := int(load := loads[w.worker] + more)) == load and load <= w.slots
        else latency_s(w, load)
        for w in workers
    ]


def _price(worker: Worker) -> float:
    return worker.price_per_s / max(worker.capacity, 1)
