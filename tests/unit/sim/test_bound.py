"""The bounds, against every schedule there is on small cases."""

from __future__ import annotations

import itertools
import math
import random

from bench.bound import bound
from bench.bound.keeping import least_worst_keeping_s
from bench.sim.parts import KindOfWorker
from bench.sim.profiles import Gpu
from bench.traces.events import Event

STEP_S = 10.0


def brute_force(needed: list[int], boot_steps: int) -> float:
    """In steps of time; a start costs `boot_steps` steps more. Least over all counts of workers per step."""
    most = max(needed)
    best = {0: 0.0}
    for least in needed:
        after: dict[int, float] = {}
        for now in range(least, most + 1):
            after[now] = min(cost + now + boot_steps * max(0, now - had) for had, cost in best.items())
        best = after
    return STEP_S * min(best.values())


def test_the_least_gpu_seconds_are_those_of_the_best_schedule(rng: random.Random) -> None:
    for _ in range(200):
        needed = [rng.randint(0, 3) for _ in range(rng.randint(2, 7))]
        capacity, boot_steps = rng.randint(1, 2), rng.randint(0, 3)
        demand = [(n * STEP_S, count * capacity) for n, count in enumerate(needed)]
        demand.append((len(needed) * STEP_S, 0))
        least_s = bound.least_gpu_s(demand, capacity, boot_steps * STEP_S)
        assert math.isclose(least_s, brute_force(needed, boot_steps), abs_tol=1e-6), (needed, boot_steps)


def test_whole_nodes_cost_at_least_as_much_as_their_gpus() -> None:
    demand = [(0.0, 3), (50.0, 17), (80.0, 2), (200.0, 0)]
    # Singles: one all the time, a second for 80 s, seven more for 30 s. Nodes: one, and a second for 30 s.
    assert bound.least_gpu_s(demand, 2, 30.0) == (200 + 30) + (80 + 30) + 7 * (30 + 30)
    assert bound.least_gpu_s(demand, 2, 30.0, node_size=8) == 8 * ((200 + 30) + (30 + 30))


def test_a_worker_that_is_there_from_the_start_needs_no_boot_but_must_be_kept() -> None:
    demand = [(0.0, 0), (10.0, 1), (50.0, 0)]
    assert bound.least_gpu_s(demand, 1, 30.0) == 70.0
    assert bound.least_gpu_s(demand, 1, 30.0, ready=1) == 50.0


def test_the_least_worst_latency_is_that_of_the_best_placement(rng: random.Random) -> None:
    kinds = [
        KindOfWorker(Gpu(f"g{n}", ((1, 0.1 + rng.random()),), slots=4), 10.0)
        for n in range(rng.randint(1, 3))
    ]
    for active in range(1, 4 * len(kinds) + 1):
        placements = itertools.product(range(5), repeat=len(kinds))
        best_s = min(
            max(kind.latency_s[n] for kind, n in zip(kinds, counts, strict=True))
            for counts in placements
            if sum(counts) == active
        )
        assert math.isclose(bound.least_worst_s([(0.0, active), (1.0, 0)], kinds), best_s)


def test_unlike_workers_cost_no_less_than_the_cheapest_place() -> None:
    dear = KindOfWorker(Gpu("dear", ((1, 0.1),), 4, price_per_s=3.0), 0.45)
    cheap = KindOfWorker(Gpu("cheap", ((1, 0.2),), 4, price_per_s=1.0), 0.45)
    assert (dear.capacity, cheap.capacity) == (4, 2)
    assert bound.least_cost([(0.0, 4), (10.0, 0)], [dear, cheap]) == 20.0


def test_what_is_asked_for_before_a_first_boot_ends_is_beyond_capacity_under_every_policy() -> None:
    demand = [(0.0, 6), (20.0, 0), (40.0, 6), (60.0, 0)]
    assert bound.beyond_at_start(demand, 2, 30.0, ready=1) == (4 * 20) / (6 * 40)
    assert bound.beyond_at_start(demand, 2, 0.0, ready=0) == 0.0


def test_the_least_worst_latency_that_keeps_the_cadence_by_hand() -> None:
    # One worker for two, 0.2 s a session; the third waits from 10 to 14 s, when the first departs.
    kind = KindOfWorker(Gpu("g", ((1, 0.2),), slots=4), 0.45)
    events = [
        Event(0.0, "a", "arrive", active=True),
        Event(0.0, "b", "arrive", active=True),
        Event(10.0, "c", "arrive", active=True),
        Event(14.0, "a", "depart"),
        Event(20.0, "b", "depart"),
        Event(20.0, "c", "depart"),
    ]
    waits_s = 0.4 * 0.4 + (4.0**2 - 0.4**2) / 2
    assert math.isclose(least_worst_keeping_s(events, [(0.0, 1)], kind), (16 * 0.4 + waits_s) / 20)
    assert math.isclose(
        least_worst_keeping_s(events, [(0.0, 1), (10.0, 3)], kind), (10 * 0.4 + 4 * 0.2 + 6 * 0.2) / 20
    )


def test_no_order_of_serving_has_a_shorter_longest_wait(rng: random.Random) -> None:
    """Of one at once, nobody's place taken away: whoever is let in first, second, …"""
    kind = KindOfWorker(Gpu("g", ((1, 0.001),), slots=4), 0.0019)
    for _ in range(60):
        spells = [(float(b), float(b + rng.randint(1, 6))) for b in sorted(rng.sample(range(9), 5))]
        changes = [(begin, f"s{n}", "arrive") for n, (begin, _) in enumerate(spells)]
        changes += [(end, f"s{n}", "depart") for n, (_, end) in enumerate(spells)]
        events = [Event(at, s, what, active=what == "arrive" or None) for at, s, what in sorted(changes)]  # type: ignore[arg-type]
        told_s = least_worst_keeping_s(events, [(0.0, 1)], kind)
        orders_s = [longest_waits_s(spells, order) for order in itertools.permutations(range(5))]
        assert kind.capacity == 1
        assert told_s <= min(orders_s) + 1e-3
        assert math.isclose(told_s, longest_waits_s(spells, tuple(range(5))), abs_tol=2e-3)


def longest_waits_s(spells: list[tuple[float, float]], order: tuple[int, ...]) -> float:
    """Mean of the longest wait, one place, given to whom `order` names first of those there."""
    total_s = served_s = 0.0
    serving: int | None = None
    step_s = 0.5
    for tick in range(2 * 15):
        now_s = tick * step_s
        there = [n for n in order if spells[n][0] <= now_s < spells[n][1]]
        serving = serving if serving in there else next(iter(there), None)
        if there:
            served_s += step_s
            begun = [spells[n][0] for n in there if n != serving]
            total_s += step_s * (now_s + step_s / 2 - min(begun)) if begun else 0.0
    return total_s / served_s
