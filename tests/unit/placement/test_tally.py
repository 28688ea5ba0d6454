import pytest

from services.placement.tally import Tally
from shared.contracts.fleet import SessionCounts
from tests.unit.placement.examples import make_row


def test_what_users_do_is_counted_once_each() -> None:
    tally = Tally()
    queued, active, paused, closed = map(make_row, ("queued", "active", "paused", "closed"))
    for _ in range(3):
        tally.opened()
    for before, after in (
        (queued, active),
        (active, queued),
        (active, paused),
        (paused, queued),
        (active, active),
        (active, closed),
        (paused, closed),
    ):
        tally.changed(before, after, 1.0)
    assert tally.counts == SessionCounts(
        arrived=3, arrived_active=3, activated=1, idled=1, departed=2, departed_active=1
    )


def test_spells_are_learned_and_waiting_is_none() -> None:
    tally = Tally()
    assert tally.spell_s(0.0) == 15.0, "until something is known"
    for _ in range(1000):
        tally.changed(make_row("queued"), make_row("closed"), 0.01)
    assert tally.spell_s(0.0) == 15.0
    for _ in range(96):
        tally.changed(make_row("active"), make_row("paused"), 65.0)
    assert tally.spell_s(0.0) == pytest.approx(63.0)
    assert tally.spell_s(100.0) == pytest.approx(64.0), "what still runs counts as far as it went"


def test_what_being_away_costs_is_learned_and_old_hand_overs_fade() -> None:
    tally = Tally()
    assert tally.away_s(0.0) == 0.1
    for _ in range(200):
        tally.went_away(0.03, 10.0)
    assert tally.away_s(1e6) == pytest.approx(0.03, rel=0.05), "what is quick stays known"
    tally.went_away(2.0, 10.0)
    assert 0.03 < tally.away_s(10.0) < 0.1, "one in vain doesn't keep everybody at home"


def test_that_being_away_cost_much_is_forgotten_since_nobody_would_find_out() -> None:
    tally = Tally()
    for now_s in range(40):
        tally.went_away(2.0, float(now_s))
    costs = [tally.away_s(now_s) for now_s in (0.0, 39.0, 60.0, 600.0, 1e6)]
    assert costs[0] == costs[1] > 1.0, "a clock that goes back changes nothing"
    assert costs[1:] == sorted(costs[1:], reverse=True)
    assert costs[-1] == pytest.approx(0.1)


def test_the_pause_of_a_move_is_learned() -> None:
    tally = Tally()
    assert tally.move_pause_s == 0.1
    for _ in range(96):
        tally.moved(0.02)
    assert tally.move_pause_s == pytest.approx(0.0232)
