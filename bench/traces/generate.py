"""Traces made from a shape and a seed: the same on every machine and Python, since of `random` only the
numbers that its documentation promises never to change are used, and times are rounded to the millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from bench.traces.events import Event
from bench.traces.shapes import PARTING_S, SHAPES, Shape


def generate(shape: str, seed: int, scale: float = 1.0, duration_s: float | None = None) -> list[Event]:
    """`scale` multiplies how many sessions arrive. `duration_s` cuts the trace short. Raises KeyError for
    an unknown shape.
    """
    return of_shape(SHAPES[shape], seed, scale, duration_s)


def of_shape(given: Shape, seed: int, scale: float = 1.0, duration_s: float | None = None) -> list[Event]:
    rng = Random(seed)
    end_s = min(given.duration_s, duration_s or math.inf)
    events: list[Event] = []
    for number, at_s in enumerate(sorted(_arrivals(given, scale, rng, end_s))):
        events.extend(_session(given, f"s{number}", at_s, rng, end_s))
    # By number where times are equal: sorting keeps the order of one session's own events.
    return sorted(events, key=lambda event: event.time_s)


def _uniform(rng: Random) -> float:
    """In (0, 1]."""
    return 1.0 - rng.random()


def _arrivals(shape: Shape, scale: float, rng: Random, end_s: float) -> Iterator[float]:
    """A Poisson process, thinned to the shape's rate."""
    highest = scale * max(value for _, value in shape.rate)
    at_s = -math.log(_uniform(rng)) / highest
    while at_s < end_s:
        if rng.random() * highest < scale * _rate(shape, at_s):
            yield at_s
        at_s -= math.log(_uniform(rng)) / highest
    for spike_at_s, sessions in shape.spikes:
        for _ in range(round(scale * sessions)):
            at_s = spike_at_s + shape.spike_s * rng.random()
            if at_s < end_s:
                yield at_s


def _rate(shape: Shape, at_s: float) -> float:
    for (from_s, before), (to_s, after) in zip(shape.rate, shape.rate[1:], strict=False):
        if at_s <= to_s:
            return before + (after - before) * (at_s - from_s) / (to_s - from_s)
    return shape.rate[-1][1]


def _session(shape: Shape, name: str, at_s: float, rng: Random, end_s: float) -> Iterator[Event]:
    """One session's events; those after the trace's end are left out, and so it may never depart."""
    active = rng.random() < shape.arrive_active
    yield Event(_ms(at_s), name, "arrive", active=active)
    leaves_s = math.inf if shape.lifetime is None else at_s + shape.lifetime(_uniform(rng))
    while True:
        at_s += shape.active(_uniform(rng)) if active else shape.idle(_uniform(rng))
        if at_s >= min(leaves_s, end_s):
            break
        active = not active
        yield Event(_ms(at_s), name, "active" if active else "idle")
        if not active and shape.lifetime is None and rng.random() < 1.0 / shape.spells:
            leaves_s = at_s - PARTING_S * math.log(_uniform(rng))
            break
    if leaves_s < end_s:
        yield Event(_ms(leaves_s), name, "depart")


def _ms(seconds: float) -> float:
    return round(seconds, 3)
