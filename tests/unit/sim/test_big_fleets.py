"""What a decision about a thousand workers leaves for the garbage collector, which is what takes longest."""

from __future__ import annotations

import gc

import pytest

from services.placement.policies.registry import named
from services.placement.policies.view import Memory, Place, Session, View, Worker

_WORKERS = 1024


def _view() -> View:
    """Two sessions on every worker but the first twenty, for whose places twenty wait."""
    workers = [Worker(f"w{n}", "h100", "ready", 2, 4, (0.0, 0.3, 0.6, 0.9, 1.2)) for n in range(_WORKERS)]
    placed = [
        Session(f"s{n}", True, float(n % 7), worker=f"w{n % _WORKERS}", beat_s=100.0 + n % 10 / 10)
        for n in range(2 * _WORKERS)
        if n >= 20
    ]
    waiting = [Session(f"new{n}", True, 99.0) for n in range(20)]
    return View(100.0, tuple(workers), (*placed, *waiting), spell_s=30.0)


@pytest.mark.parametrize("policy", ["ll-resume", "paper", "turboserve"])
def test_a_big_decision_makes_few_objects_that_are_collected(policy: str) -> None:
    decide, view = named(policy, {}).decide, _view()
    gc.collect()
    before = sum(generation["collections"] for generation in gc.get_stats())
    decision = decide(view, Memory())
    after = sum(generation["collections"] for generation in gc.get_stats())
    assert len([act for act in decision.acts if isinstance(act, Place)]) == 20
    assert after - before <= 1
