"""Placement's reading of a reported curve is the worker's own."""

from __future__ import annotations

import random

import pytest

from services.placement.policies.latency import latencies_s
from services.worker.curve import Curve, Pace, round_s
from shared.contracts.fleet import LatencyPoint


def test_it_is_what_the_worker_reckons(rng: random.Random) -> None:
    for _ in range(200):
        sizes = [1, *rng.sample([2, 3, 4, 6, 8], rng.randint(0, 4))]
        chunk_s = {rows: rng.uniform(0.6, 1.0) * rows * 0.2 for rows in sizes}
        points = [LatencyPoint(rows, value) for rows, value in chunk_s.items()]
        pace = Pace(Curve("any", tuple(chunk_s.items())), 1, 0.0, 0.0)
        told = latencies_s([*points, LatencyPoint(1, 9.0, "fast")], 12)
        assert told == pytest.approx([round_s(pace, sessions) for sessions in range(13)])


def test_a_worker_that_measured_nothing_is_as_quick_as_any() -> None:
    assert latencies_s([], 3) == (0.0, 0.0, 0.0, 0.0)
