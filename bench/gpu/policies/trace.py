"""A trace for so many workers of such a capacity: its peak needs every one of them, most of it far fewer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from bench.live.prediction import opened_when_wanted
from bench.traces.events import Event
from bench.traces.generate import of_shape
from bench.traces.shapes import SHAPES, Shape
from bench.traces.statistics import demand, peak_active

_RATE = ((0.0, 0.15), (0.3, 0.15), (0.65, 1.0), (0.7, 1.0), (0.75, 0.05), (1.0, 0.05))
"""Arrivals by share of the trace: a quiet beginning, a rise slower than a boot, a quicker fall."""
_MOST_PER_S, _LEAST_PER_S, _STEP = 0.12, 0.01, 0.98
"""Arrivals at the peak for each session that fits: what is tried, from more to fewer."""
_AT_PEAK = 0.4
"""Of a worker's even share of the time: so long all of them are needed."""
_AT_EASE = 0.5
"""Of the time: so long half of them are enough."""
_EMPTY = 0.2
"""Of the time: no longer is nobody active."""
_SEEDS = 40


class NoTrace(Exception):
    """None was found; says for what."""


def trace(capacity: int, workers: int, seed: int, duration_s: float) -> list[Event]:
    """The same for the same arguments. Users behave as in the other traces; how many come is what is sought:
    from `seed` on, the most at whose peak all places are taken, or nearly, and no more; if possible
    with a peak that lasts, and as much time when half of the workers are enough. Sessions arrive active.

    Raises NoTrace.
    """
    places, second_best = capacity * workers, None
    for tried in range(seed, seed + _SEEDS):
        scale = _MOST_PER_S * places
        while scale > _LEAST_PER_S * places:
            events = opened_when_wanted(of_shape(_shape(duration_s), tried, scale))
            if places - places // 10 <= peak_active(events) <= places:
                if _varied(events, capacity, workers):
                    return events
                second_best = second_best or events
            scale *= _STEP
    if second_best:
        return second_best
    raise NoTrace(f"no trace of {duration_s:g} s fills {workers} workers with {capacity} sessions each")


def _shape(duration_s: float) -> Shape:
    known = SHAPES["bursts"]
    rate = tuple((share * duration_s, value) for share, value in _RATE)
    return Shape(duration_s, rate, known.active, known.idle)


def _varied(events: Sequence[Event], capacity: int, workers: int) -> bool:
    needed_s = needed(events, capacity)
    whole_s = sum(needed_s.values())
    at_ease_s = sum(spent_s for count, spent_s in needed_s.items() if count <= math.ceil(workers / 2))
    return (
        needed_s.get(workers, 0.0) >= _AT_PEAK / workers * whole_s
        and at_ease_s >= _AT_EASE * whole_s
        and needed_s.get(0, 0.0) <= _EMPTY * whole_s
    )


def needed(events: Sequence[Event], capacity: int) -> dict[int, float]:
    """For how many seconds how many workers are needed."""
    spent_s: dict[int, float] = {}
    for (from_s, active), (to_s, _) in itertools.pairwise([(0.0, 0), *demand(events)]):
        count = math.ceil(active / capacity)
        spent_s[count] = spent_s.get(count, 0.0) + to_s - from_s
    return spent_s
