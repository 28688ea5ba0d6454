"""The bounds of a trace. Models and proofs are in this package's docstring."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from bench.sim.parts import KindOfWorker

Demand = Sequence[tuple[float, int]]
"""(since when, active sessions), ending with the trace's last moment."""


def least_gpu_s(demand: Demand, capacity: int, boot_s: float, node_size: int = 1, ready: int = 0) -> float:
    """`ready`: workers that serve from time 0 without a boot, and needn't be kept."""
    levels = _levels(demand, capacity * node_size)
    free = ready // node_size
    return node_size * sum(_level_s(needed, boot_s, level < free) for level, needed in enumerate(levels))


def _levels(demand: Demand, capacity: int) -> list[list[tuple[float, float]]]:
    """For each level the stretches of time in which it is needed."""
    levels: list[list[tuple[float, float]]] = []
    since: list[float] = []
    for at_s, active in demand:
        needed = math.ceil(active / capacity)
        while len(since) > needed:
            levels[len(since) - 1].append((since.pop(), at_s))
        while len(since) < needed:
            since.append(at_s)
            if len(levels) < len(since):
                levels.append([])
    end_s = demand[-1][0]
    for level, from_s in enumerate(since):
        levels[level].append((from_s, end_s))
    return levels


def _level_s(needed: list[tuple[float, float]], boot_s: float, free: bool) -> float:
    """Free: it is ready at time 0, and either kept until first needed or booted then."""
    stretches = sum(end - begin for begin, end in needed)
    gaps = sum(min(b[0] - a[1], boot_s) for a, b in pairwise(needed))
    first_s = min(boot_s, needed[0][0]) if free else boot_s
    return stretches + gaps + first_s


def beyond_at_start(demand: Demand, capacity: int, boot_s: float, ready: int) -> float:
    """Share of all active time that no policy without foresight can serve: before `boot_s` nothing serves
    but what was there.
    """
    whole_s = sum(active * past_s for active, past_s in _held(demand))
    beyond_s = 0.0
    for (at_s, active), (until_s, _) in pairwise(demand):
        beyond_s += max(0, active - capacity * ready) * max(0.0, min(until_s, boot_s) - at_s)
    return beyond_s / whole_s if whole_s else 0.0


def least_cost(demand: Demand, kinds: Sequence[KindOfWorker]) -> float:
    """Of unlike workers, relaxed: fractions of the kind that is cheapest for a session, no boot."""
    cheapest = min(kind.gpu.price_per_s / kind.capacity for kind in kinds)
    return cheapest * sum(active * past_s for active, past_s in _held(demand))


def least_worst_s(demand: Demand, workers: Sequence[KindOfWorker]) -> float:
    """Mean over the time in which anybody is active of the least worst latency on these workers. Beyond all
    their slots the latency of a full fleet.
    """
    steps = _steps(workers, max(active for _, active in demand))
    weighted = [(steps[min(active, len(steps)) - 1], past_s) for active, past_s in _held(demand) if active]
    total_s = sum(past_s for _, past_s in weighted)
    return sum(value * past_s for value, past_s in weighted) / total_s if total_s else 0.0


def _steps(workers: Sequence[KindOfWorker], most: int) -> list[float]:
    """The worst latency once the first, second, … session is placed, each where it hurts least."""
    heap = [(worker.latency_s[1], number, 1) for number, worker in enumerate(workers)]
    heapq.heapify(heap)
    steps: list[float] = []
    while heap and len(steps) < most:
        latency_s, number, sessions = heapq.heappop(heap)
        steps.append(latency_s)
        if sessions < workers[number].gpu.slots:
            heapq.heappush(heap, (workers[number].latency_s[sessions + 1], number, sessions + 1))
    return steps


def _held(demand: Demand) -> Iterator[tuple[int, float]]:
    """(active sessions, for how long)."""
    for (at_s, active), (until_s, _) in pairwise(demand):
        yield active, until_s - at_s
