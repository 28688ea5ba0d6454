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

_RATE = ((0.0, 0.2), (0.25, 0.2), (0.6, 1.0), (0.65, 1.0), (0.72, 0.05), (1.0, 0.05))
"""Arrivals by share of the trace: a quiet beginning, a rise slower than a boot, a quicker fall."""
_STEP = 1.02
_MOST_PER_S = 0.2
"""Arrivals for each session that fits, at the peak: more than any trace of minutes needs."""
_AT_PEAK = 0.05
_AT_EASE = 0.4
_SEEDS = 50


class NoTrace(Exception):
    """None was found; says for what."""


def trace(capacity: int, workers: int, seed: int, duration_s: float) -> list[Event]:
    """The same for the same arguments. Users behave as in the other traces; how many come is what is sought:
    from `seed` on, the fewest at whose peak all places are taken, or nearly. Sessions arrive active.

    Raises NoTrace.
    """
    places = capacity * workers
    for tried in range(seed, seed + _SEEDS):
        scale = places / duration_s / 10
        while scale < _MOST_PER_S * places:
            events = opened_when_wanted(of_shape(_shape(duration_s), tried, scale))
            if _fits(events, capacity, workers):
                return events
            if peak_active(events) > places:
                break
            scale *= _STEP
    raise NoTrace(f"no trace of {duration_s:g} s fills {workers} workers with {capacity} sessions each")


def _shape(duration_s: float) -> Shape:
    known = SHAPES["bursts"]
    rate = tuple((share * duration_s, value) for share, value in _RATE)
    return Shape(duration_s, rate, known.active, known.idle)


def _fits(events: Sequence[Event], capacity: int, workers: int) -> bool:
    places = capacity * workers
    if not places - capacity // 4 <= peak_active(events) <= places:
        return False
    needed_s = needed(events, capacity)
    whole_s = sum(needed_s.values())
    at_ease_s = sum(spent_s for count, spent_s in needed_s.items() if count <= math.ceil(workers / 2))
    return needed_s.get(workers, 0.0) >= _AT_PEAK * whole_s and at_ease_s >= _AT_EASE * whole_s


def needed(events: Sequence[Event], capacity: int) -> dict[int, float]:
    """For how many seconds how many workers are needed."""
    spent_s: dict[int, float] = {}
    for (from_s, active), (to_s, _) in itertools.pairwise(demand(events)):
        count = math.ceil(active / capacity)
        spent_s[count] = spent_s.get(count, 0.0) + to_s - from_s
    return spent_s
