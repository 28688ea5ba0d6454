"""What is counted while the simulation runs: integrals over time, and every chunk's latency."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence

from bench.sim.parts import SimWorker

_LONGEST_STEP_S = 1.0
"""A wait grows with time: its greatest value stands for a step at most so long."""


class Meter:
    """`advance` is called before anything changes. `active`, `queued`, `refused`: sessions, now.
    `played_s`: active time since each session's first chunk, `stalled_s` of it without a picture;
    `unstarted_s`: queued before it. `stepped`: active sessions one step down, now.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.active = self.queued = self.refused = 0
        self.oldest_wait_from_s = math.inf
        self.active_s = self.queued_s = self.refused_s = self.beyond_s = 0.0
        self.played_s = self.stalled_s = self.unstarted_s = 0.0
        self.latencies_s = array("d")
        self.ttfc_s = array("d")
        self.decisions_s = array("d")
        self.worst: dict[float, float] = defaultdict(float)
        self.moves = self.suspends = self.scale_events = self.refusals = 0
        self.gpu_s = self.node_s = self.cost = 0.0
        self.workers = 0
        self.price_per_s = 0.0
        self._beyond = 0.0
        self.stepped_s = 0.0
        self.stepped = 0
        self._loads: dict[float, int] = {}

    @property
    def continuous_play_ratio(self) -> float:
        wanted_s = self.played_s + self.unstarted_s + self.refused_s
        return (self.played_s - self.stalled_s) / wanted_s if wanted_s > 0.0 else 1.0

    def load(self, worker: SimWorker, change: int, weight: float | None = None) -> None:
        """A worker has so many active sessions more, or less, which take as much of it as `weight` sessions
        at the full rung; None: they are.
        """
        kind, before = worker.kind, worker.load
        worker.active += change
        after = worker.load = round(before + (change if weight is None else weight), 6)
        loads, latency_s = self._loads, kind.latency_s
        before_s, after_s = latency_s[math.ceil(before)], latency_s[math.ceil(after)]
        loads[before_s] = loads.get(before_s, 0) - 1
        loads[after_s] = loads.get(after_s, 0) + 1
        self._beyond += max(0.0, after - kind.capacity) - max(0.0, before - kind.capacity)

    def rent(self, worker: SimWorker, change: int) -> None:
        self.workers += change
        self.price_per_s += change * worker.kind.gpu.price_per_s

    def advance(self, now_s: float) -> None:
        past_s = now_s - self.now_s
        if past_s <= 0.0:
            return
        demand = self.active + self.refused
        self.active_s += demand * past_s
        self.queued_s += self.queued * past_s
        self.refused_s += self.refused * past_s
        self.beyond_s += (self.queued + self.refused + self._beyond) * past_s
        self.stepped_s += self.stepped * past_s
        self.gpu_s += self.workers * past_s
        self.cost += self.price_per_s * past_s
        self.node_s += math.ceil(self.workers / 8) * past_s
        if demand:
            self._worst(now_s, past_s)
        self.now_s = now_s

    def _worst(self, now_s: float, past_s: float) -> None:
        worst_s = max((latency_s for latency_s, n in self._loads.items() if n > 0), default=0.0)
        if now_s - self.oldest_wait_from_s <= worst_s:
            self.worst[worst_s] += past_s
            return
        steps = math.ceil(past_s / _LONGEST_STEP_S)
        for step in range(1, steps + 1):
            waited_s = self.now_s + past_s * step / steps - self.oldest_wait_from_s
            self.worst[round(max(worst_s, waited_s), 2)] += past_s / steps


def percentiles_ms(values_s: Sequence[float], points: Sequence[float]) -> list[float | None]:
    """The nearest-rank percentiles; None where there is nothing."""
    ordered = sorted(values_s)
    if not ordered:
        return [None for _ in points]
    last = len(ordered) - 1
    return [round(1000.0 * ordered[min(last, math.ceil(p * len(ordered)) - 1)], 3) for p in points]


def weighted_ms(weights: dict[float, float], point: float) -> float:
    """The value that `point` of all weight doesn't exceed."""
    total, reached = sum(weights.values()), 0.0
    for value_s, weight in sorted(weights.items()):
        reached += weight
        if reached >= point * total:
            return round(1000.0 * value_s, 3)
    return 0.0
