"""TurboServe's formulas, one by one."""

from __future__ import annotations

import pytest

from services.autoscaler.policies import paper as scaling
from services.autoscaler.policies import view as fleet
from services.placement.policies import view as placement
from services.placement.policies.board import Board
from services.placement.policies.paper import Paper, gain_s
from services.placement.policies.view import Memory, Move, Place

CURVE = (0.0, 0.2, 0.3, 0.45, 0.7)


def worker(name: str, latency_s: tuple[float, ...] = CURVE, capacity: int = 4) -> placement.Worker:
    return placement.Worker(name, "b300", "ready", capacity, len(latency_s) - 1, latency_s)


def on(where: str, count: int, move_cost_s: float = 0.0) -> list[placement.Session]:
    return [
        placement.Session(f"{where or 'new'}-{n}", True, float(n), worker=where, move_cost_s=move_cost_s)
        for n in range(count)
    ]


def view(workers: list[placement.Worker], *sessions: list[placement.Session]) -> placement.View:
    return placement.View(100.0, tuple(workers), tuple(s for some in sessions for s in some))


def test_gain_is_what_the_worst_latency_falls_less_the_weighted_cost() -> None:
    assert gain_s(0.7, 0.45, eta=2.0, move_cost_s=0.03) == pytest.approx(0.7 - 0.45 - 2.0 * 0.03)


def test_a_new_session_goes_where_the_worst_latency_stays_smallest() -> None:
    slow = worker("slow", (0.0, 0.6, 0.9), capacity=2)
    seen = view([slow, worker("quick")], on("quick", 2), on("", 1))
    (act,) = Paper().decide(seen, Memory()).acts
    assert act == Place("new-0", "quick", act.reason)


def test_near_ties_go_to_the_lighter_worker() -> None:
    """Whoever takes it, the worst stays that of the full one."""
    seen = view(
        [worker("full"), worker("two"), worker("one")], on("full", 4), on("two", 2), on("one", 1), on("", 1)
    )
    acts = Paper(eta=10.0).decide(seen, Memory()).acts
    assert [act.worker for act in acts if isinstance(act, Place)] == ["one"]


def test_the_best_move_off_the_bottleneck_is_made_while_it_gains() -> None:
    seen = view([worker("a"), worker("b")], on("a", 4, 0.03))
    decision = Paper().decide(seen, Memory())
    assert [(act.source, act.target) for act in decision.acts if isinstance(act, Move)] == [("a", "b")] * 2
    assert decision.rho_max == 0.5


def test_one_that_takes_more_than_others_is_not_moved_back_and_forth() -> None:
    """Reckoned as one session of a lighter rung, each move would seem to gain, for ever."""
    heavy = placement.Session("heavy", True, 0.0, worker="a", weight=1.7)
    assert Paper().decide(view([worker("a"), worker("b")], [heavy]), Memory()).acts == ()


def test_a_move_that_costs_more_than_it_gains_is_not_made() -> None:
    """Γ = 0.7 − 0.45 − η·κ."""
    seen = view([worker("a"), worker("b")], on("a", 4, 0.2))
    assert Paper(eta=1.0).best_move(Board(seen)) is not None
    assert Paper(eta=1.3).best_move(Board(seen)) is None


def test_two_equal_bottlenecks_leave_no_gain() -> None:
    """As published: one move can't lower a maximum that another worker holds too."""
    seen = view([worker("a"), worker("b"), worker("c")], on("a", 3), on("b", 3))
    assert Paper().decide(seen, Memory()).acts == ()


@pytest.mark.parametrize(
    ("active", "capacity", "rho", "workers"),
    [(10, 4, 0.9, 3), (9, 4, 0.75, 3), (1, 4, 1.0, 1), (0, 4, 0.9, 0)],
)
def test_target_is_active_sessions_over_capacity_times_utilisation(
    active: int, capacity: int, rho: float, workers: int
) -> None:
    assert scaling.target(active, capacity, rho) == workers


def test_volatility_is_spread_against_mean_and_picks_the_row() -> None:
    assert scaling.volatility((10, 10, 10)) == 0.0
    assert scaling.volatility((5, 15)) == pytest.approx(0.5)
    assert scaling.volatility(()) == 0.0
    rhos = [scaling.row_of(volatile).rho for volatile in (0.0, 0.2, 5.0)]
    assert rhos == sorted(rhos, reverse=True), "volatile: more head-room"


KIND = fleet.Kind("b300", 4, CURVE, price_per_s=1.0, boot_s=0.0)


def test_the_objective_is_cost_and_weighted_latency() -> None:
    assert scaling.objective(3, 8, KIND, weight=10.0) == pytest.approx(3 * 1.0 + 10.0 * CURVE[3])


def seen_fleet(now_s: float, active: int, ready: int, rho_max: float) -> fleet.View:
    workers = tuple(fleet.Worker(f"w{n}", "b300", "ready", 0.0) for n in range(ready))
    loads = tuple(active // ready + (n < active % ready) for n in range(ready))
    counts = fleet.Counts()
    return fleet.View(now_s, workers, loads, (KIND,), active, 0, 0, counts, rho_max, minimum=1, maximum=20)


def test_scales_out_when_placement_left_a_worker_above_the_target() -> None:
    decision = scaling.Paper(rho=0.9, weight=0.0).decide(seen_fleet(0.0, 12, 3, rho_max=1.0), None)
    assert decision.change.start == {"b300": 1}
    assert scaling.Paper(rho=0.9).decide(seen_fleet(0.0, 12, 3, rho_max=0.9), None).desired == 3


def test_a_weight_on_latency_buys_workers_while_that_is_cheaper() -> None:
    heavy = scaling.Paper(rho=0.9, weight=30.0).decide(seen_fleet(0.0, 12, 3, rho_max=1.0), None)
    # 4 workers: 4 + 30·0.45; 6: 6 + 30·0.3; 12: 12 + 30·0.2.
    assert heavy.desired == 6


def test_scales_in_only_after_the_hold() -> None:
    policy = scaling.Paper(rho=0.9, hold_s=5.0, weight=0.0)
    decision = policy.decide(seen_fleet(0.0, 12, 4, rho_max=0.75), None)
    for now_s in (1.0, 2.0, 3.0, 4.0):
        decision = policy.decide(seen_fleet(now_s, 4, 4, rho_max=0.25), decision.memory)
        assert decision.desired == 4
    assert policy.decide(seen_fleet(5.0, 4, 4, rho_max=0.25), decision.memory).desired == 2
