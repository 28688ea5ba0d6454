"""A trace for so many workers of such a capacity: its peak needs every one of them, most of it far fewer.

It is the trace `bursts` in miniature, which has the statistics of TurboServe's public demo trace: one burst
and a trough on either side, with a tenth of the burst's arrivals. Matched to it are the mean of the active
sessions over the most that there are, 0.37 to 0.39 there, and what the cheapest fleet costs that knows all
beforehand (`bench.bound`), over a fixed one: 0.72 to 0.75 there for two workers, 0.56 to 0.60 for four,
0.49 to 0.54 for eight. Both say how far any policy can get below a fixed fleet; neither asks what one of
ours makes of the trace. Until anything can have booted one worker is enough: more than that would be late
whoever decides. So that 150 s hold the burst and its end, users act and pause half as long as there (a boot,
15 s on a machine that has run before, is half of the yardstick's, too), and 1.5 times in place of 2.4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from bench.bound.bound import beyond_at_start, least_gpu_s
from bench.live.prediction import opened_when_wanted
from bench.traces.events import Event
from bench.traces.generate import of_shape
from bench.traces.shapes import SHAPES, Draw, Shape
from bench.traces.statistics import demand, peak_active

_RATE = ((0.0, 0.1), (0.3, 0.1), (0.55, 1.0), (0.65, 1.0), (0.68, 0.1), (1.0, 0.1))
"""Arrivals by share of the trace: a trough, a rise slower than a boot, a burst, a quicker fall, a trough."""
_PACE = 0.5
"""Of the times for which users act and pause elsewhere."""
_SPELLS = 1.5
_MOST_PER_S, _LEAST_PER_S, _STEP = 0.12, 0.02, 0.95
"""Arrivals at the peak for each session that fits: what is tried, from more to fewer."""
_LEAST_MEAN, _MOST_MEAN = 0.3, 0.39
"""Of the most active sessions: so many are active in the mean."""
_AT_PEAK = 0.25
"""Of a worker's even share of the time: so long all of them are needed (in `bursts` 0.16 to 0.7)."""
_LEAST_COST, _BOOT_S = 0.66, 15.0
"""Of a fixed fleet's: no more does the cheapest cost, with one worker there all the time."""
_EMPTY = 0.25
"""Of the time: no longer is nobody active."""
_LASTS = 0.9
"""Of the time asked for: no less until the last event."""
_SEEDS = 400


class NoTrace(Exception):
    """None was found; says for what."""


def trace(capacity: int, workers: int, seed: int, duration_s: float) -> list[Event]:
    """The same for the same arguments. What is sought is how many come: from `seed` on, the most at whose
    peak all places are taken, or nearly, and no more; if possible with a peak that lasts, and a mean and a
    least cost like those of `bursts`. Sessions arrive active.

    Raises NoTrace.
    """
    places, second_best = capacity * workers, None
    for tried in range(seed, seed + _SEEDS):
        scale = _MOST_PER_S * places
        while scale > _LEAST_PER_S * places:
            events = opened_when_wanted(of_shape(_shape(duration_s), tried, scale))
            peak = peak_active(events)
            if places - places // 10 <= peak <= places:
                if events[-1].time_s >= _LASTS * duration_s and _varied(events, capacity, workers):
                    return events
                second_best = second_best or events
            scale *= min(_STEP, (places / peak) ** 0.5 if peak > places else _STEP)
    if second_best:
        return second_best
    raise NoTrace(f"no trace of {duration_s:g} s fills {workers} workers with {capacity} sessions each")


def _shape(duration_s: float) -> Shape:
    known = SHAPES["bursts"]
    rate = tuple((share * duration_s, value) for share, value in _RATE)
    return Shape(duration_s, rate, _quicker(known.active), _quicker(known.idle), spells=_SPELLS)


def _quicker(draw: Draw) -> Draw:
    return lambda uniform: _PACE * draw(uniform)


def _varied(events: Sequence[Event], capacity: int, workers: int) -> bool:
    needed_s = needed(events, capacity)
    whole_s = sum(needed_s.values())
    return (
        needed_s.get(workers, 0.0) >= _AT_PEAK / workers * whole_s
        and needed_s.get(0, 0.0) <= _EMPTY * whole_s
        and _LEAST_MEAN <= mean_active(events) / peak_active(events) <= _MOST_MEAN
        and not beyond_at_start(demand(events), capacity, _BOOT_S, ready=1)
        and least_cost(events, capacity, workers) <= _LEAST_COST
    )


def mean_active(events: Sequence[Event]) -> float:
    """Over the time until the last event."""
    steps = [(0.0, 0), *demand(events)]
    active_s = sum(active * (to_s - from_s) for (from_s, active), (to_s, _) in itertools.pairwise(steps))
    return active_s / steps[-1][0]


def least_cost(events: Sequence[Event], capacity: int, workers: int) -> float:
    """Over a fixed fleet's. The first worker stays."""
    steps = demand(events)
    above = [(at_s, max(active, 1)) for at_s, active in [(0.0, 0), *steps]]
    return least_gpu_s(above, capacity, _BOOT_S, ready=1) / (workers * steps[-1][0])


def needed(events: Sequence[Event], capacity: int) -> dict[int, float]:
    """For how many seconds how many workers are needed."""
    spent_s: dict[int, float] = {}
    for (from_s, active), (to_s, _) in itertools.pairwise([(0.0, 0), *demand(events)]):
        count = math.ceil(active / capacity)
        spent_s[count] = spent_s.get(count, 0.0) + to_s - from_s
    return spent_s
