"""The least worst latency of a policy that serves nobody beyond capacity, so that running sessions keep their
cadence. Proven in this package's docstring.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence

from bench.sim.parts import KindOfWorker
from bench.traces.events import Event

Serving = Sequence[tuple[float, int]]
"""(since when, workers that can serve), from time 0."""
_Change = tuple[float, Event | int]


def least_worst_keeping_s(events: Sequence[Event], serving: Serving, kind: KindOfWorker) -> float:
    """Mean over the time in which anybody is active, on the workers that there were at each moment."""
    active, workers = _Active(), 0
    now_s = weighted = total_s = 0.0
    for at_s, change in _merged(events, serving):
        if len(active.since_s) and at_s > now_s:
            weighted += _integral(active.since_s, workers, kind, now_s, at_s)
            total_s += at_s - now_s
        now_s = at_s
        if isinstance(change, int):
            workers = change
        else:
            active.happen(change)
    return weighted / total_s if total_s else 0.0


class _Active:
    """`since_s`: since when each active session is so, the oldest first."""

    def __init__(self) -> None:
        self.since_s: list[float] = []
        self._of: dict[str, float] = {}

    def happen(self, event: Event) -> None:
        if event.event == "active" or event.active is True:
            insort(self.since_s, event.time_s)
            self._of[event.session] = event.time_s
        elif event.event in ("idle", "depart") and event.session in self._of:
            self.since_s.remove(self._of.pop(event.session))


def _merged(events: Iterable[Event], serving: Serving) -> Iterator[_Change]:
    changes = ((at_s, count) for at_s, count in serving)
    told = ((event.time_s, event) for event in events)
    return heapq.merge(changes, told, key=lambda change: change[0])


def _integral(
    since_s: Sequence[float], workers: int, kind: KindOfWorker, from_s: float, until_s: float
) -> float:
    """Of the greater of the served ones' latency and the longest wait."""
    sessions = len(since_s)
    served = min(sessions, workers * kind.capacity)
    served_s = kind.latency_s[math.ceil(served / workers)] if served else 0.0
    if served == sessions:
        return served_s * (until_s - from_s)
    begun_s = since_s[served]
    longer_from_s = min(max(from_s, begun_s + served_s), until_s)
    waits_s = ((until_s - begun_s) ** 2 - (longer_from_s - begun_s) ** 2) / 2.0
    return served_s * (longer_from_s - from_s) + waits_s
