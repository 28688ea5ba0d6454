"""Beyond capacity as a setting; back within it once there is room; no moves in a fleet that changes."""

from __future__ import annotations

import msgspec

from services.placement.policies.turboserve import Turboserve
from services.placement.policies.view import Memory, Move, Place, Session, View, Worker

LATENCY_S = (0.0, 0.3, 0.6, 0.9, 1.2)
NOW_S = 1000.0


def worker(name: str, since_s: float = 0.0, state: str = "ready") -> Worker:
    return Worker(name, "h100", state, capacity=2, slots=4, latency_s=LATENCY_S, since_s=since_s)  # type: ignore[arg-type]


def session(name: str, where: str = "", since_s: float = 0.0) -> Session:
    return Session(name, True, since_s, where, where, move_cost_s=0.003)


def full(name: str) -> list[Session]:
    return [session(f"{name}a", name), session(f"{name}b", name)]


def test_who_has_waited_shares_the_worker_where_it_hurts_least_and_nobody_does_by_default() -> None:
    third, late, new = session("z", "w0"), session("late", since_s=NOW_S - 1.0), session("new", since_s=NOW_S)
    sessions = (*full("w0"), third, *full("w1"), late, new)
    view = View(NOW_S, (worker("w0"), worker("w1")), sessions)
    assert Turboserve().decide(view, Memory()).acts == ()
    decision = Turboserve(share_s=0.8).decide(view, Memory())
    assert [(act.session, act.worker) for act in decision.acts if isinstance(act, Place)] == [("late", "w1")]
    assert [waiting.session for waiting in decision.waiting] == ["new"]


def test_nobody_shares_beyond_the_slots() -> None:
    everywhere = [session(f"s{n}", "w0") for n in range(4)]
    view = View(NOW_S, (worker("w0"),), (*everywhere, session("late")))
    decision = Turboserve(share_s=0.0).decide(view, Memory())
    assert decision.acts == ()
    assert len(decision.waiting) == 1


def test_who_came_last_leaves_an_overloaded_worker_at_once_for_one_with_room() -> None:
    guest = session("guest", "w0", since_s=NOW_S - 5.0)
    view = View(NOW_S, (worker("w0"), worker("w1", since_s=NOW_S)), (*full("w0"), guest))
    decision = Turboserve().decide(view, Memory())
    (act,) = decision.acts
    assert isinstance(act, Move)
    assert (act.session, act.target) == ("guest", "w1")


def test_no_overloaded_worker_is_left_for_a_slower_one() -> None:
    slow = msgspec.structs.replace(worker("slow"), capacity=1, latency_s=(0.0, 2.0, 4.0, 6.0, 8.0))
    view = View(NOW_S, (worker("w0"), slow), (*full("w0"), session("guest", "w0", since_s=5.0)))
    assert Turboserve(balance=False).decide(view, Memory()).acts == ()


def test_moves_for_latency_wait_until_the_fleet_has_stood_still() -> None:
    policy, uneven = Turboserve(settle_s=60.0), Memory(uneven_s=0.0)
    for since_s, moved in ((NOW_S - 61.0, 1), (NOW_S - 59.0, 0)):
        view = View(NOW_S, (worker("w0"), worker("w1", since_s)), tuple(full("w0")))
        assert len(policy.decide(view, uneven).acts) == moved
    booting = View(NOW_S, (worker("w0"), worker("w1"), worker("w2", 0.0, "starting")), tuple(full("w0")))
    assert policy.decide(booting, uneven).acts == ()
    assert len(Turboserve(settle_s=None).decide(booting, uneven).acts) == 1
