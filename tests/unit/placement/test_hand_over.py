import pytest

from services.placement.facts import HandedBack, HandedOver, OwnerLost
from services.placement.fleet_view import FleetView
from services.placement.hand_over import (
    MOVE_S,
    CallOff,
    Commit,
    Decision,
    HandBack,
    Ongoing,
    Over,
    decide,
    hand_back,
    is_secure,
    of_stray,
)
from shared.contracts.fleet import CopyReport, WorkerExited
from shared.contracts.moves import Move, MoveNews
from shared.store.rows import SessionRow
from tests.unit.placement.examples import SESSION, make_copy, make_report, make_row

MOVE = Move("m-1", SESSION, "w-1", "w-2", 2, 3)
BEFORE = make_row("active", given_epoch=3)
AFTER = make_row("active", epoch=3, worker="w-2", incarnation="i-2")
ARRIVED, PROVEN = make_copy(epoch=3, move_id="m-1"), make_copy(epoch=3)


def fleet_of(source: CopyReport | None = None, target: CopyReport | None = None) -> FleetView:
    fleet = FleetView(5.0, 0.0)
    fleet.report(make_report("w-1", 1, *([source] if source else [])), 0.0)
    fleet.report(make_report("w-2", 1, *([target] if target else []), incarnation="i-2"), 0.0)
    return fleet


def news(worker: str, state: str, why: str = "") -> MoveNews:
    return MoveNews("m-1", SESSION, worker, state, 1.0, why)


def decided(row: SessionRow, fleet: FleetView, *heard: MoveNews, now: float = 0.0) -> Decision | None:
    going = Ongoing(MOVE, "i-2", 0.0)
    for one in heard:
        going.hear(one)
    return decide(going, row, fleet, now, 100.0)


@pytest.mark.parametrize(
    ("copy", "heard", "expected"),
    [
        (None, [], None),
        (None, [news("w-1", "frozen")], None),
        (ARRIVED, [], Commit()),
        (PROVEN, [], Commit()),
        (None, [news("w-2", "arrived")], Commit()),
        (None, [news("w-2", "owner")], Commit()),
        (None, [news("w-1", "arrived")], None),
        (None, [news("w-9", "owner")], None),
        (None, [news("w-1", "stayed", "too late")], CallOff("worker w-1: too late")),
        (ARRIVED, [news("w-1", "stayed", "too late")], CallOff("worker w-1: too late")),
        (PROVEN, [news("w-1", "stayed", "too late")], Commit()),
        (None, [news("w-2", "freed", "no slot")], CallOff("worker w-2: no slot")),
        (make_copy(epoch=3, move_id="m-1", state="superseded"), [], None),
    ],
)
def test_before_the_hand_over(
    copy: CopyReport | None, heard: list[MoveNews], expected: Decision | None
) -> None:
    assert decided(BEFORE, fleet_of(make_copy(), copy), *heard) == expected


def test_what_ends_a_move_before_the_hand_over() -> None:
    fleet = fleet_of(make_copy())
    assert decided(BEFORE, fleet, now=MOVE_S) == CallOff("worker w-2: its worker fell silent")
    assert decided(make_row("closed"), fleet) == CallOff("the session has ended")
    assert decided(make_row("queued", given_epoch=3), fleet) == CallOff("worker w-1 does not own it any more")
    assert decided(make_row("queued", given_epoch=3), fleet_of(None, ARRIVED)) == Commit()
    fleet.report(make_report("w-2", 2, incarnation="i-2"), MOVE_S)
    late = decided(BEFORE, fleet, now=MOVE_S + 0.1)
    assert late == CallOff(f"its state was not there after {MOVE_S:g} s")


def test_a_session_that_nobody_owns_is_its_home_s_to_give() -> None:
    def told(row: SessionRow, fleet: FleetView, now: float = 0.0) -> Decision | None:
        return decide(Ongoing(MOVE, "i-2", 0.0, within_s=1.5, home="i-1"), row, fleet, now, 100.0)

    waiting, fleet = make_row("queued", given_epoch=3), fleet_of(make_copy(state="paused"))
    paused_again = make_row("paused", given_epoch=3, worker="", incarnation="")
    for row in (waiting, paused_again):
        assert told(row, fleet) is None
        assert told(row, fleet_of(None, ARRIVED)) == Commit()
        assert told(row, fleet, 1.6) == CallOff("its state was not there after 1.5 s")
    assert told(make_row("active", epoch=4), fleet) == Over("stayed", "worker w-2 could not go on with it")
    fleet.exited(WorkerExited("w-1"), 0.0)
    assert told(waiting, fleet) == CallOff("worker w-1: its worker ended")
    fleet.report(make_report("w-1", 2, make_copy(state="paused"), incarnation="i-9", started_at=200.0), 5.0)
    assert told(waiting, fleet, 1.0) == CallOff("worker w-1: its worker was started anew")


@pytest.mark.parametrize(
    ("row", "copy", "heard", "expected"),
    [
        (AFTER, ARRIVED, [], None),
        (AFTER, None, [], None),
        (AFTER, None, [news("w-1", "stayed", "too late")], None),
        (AFTER, PROVEN, [], Over("moved")),
        (AFTER, None, [news("w-2", "owner")], Over("moved")),
        (AFTER, None, [news("w-2", "freed", "lost")], HandBack("lost")),
        (make_row("active", epoch=4), None, [news("w-2", "freed", "lost")], Over("stayed", "lost")),
        (
            make_row("active", epoch=4, worker="w-3"),
            None,
            [],
            Over("lost", "worker w-2 could not go on with it"),
        ),
        (make_row("queued", epoch=3, reason="silent"), None, [], Over("lost", "silent")),
    ],
)
def test_after_the_hand_over(
    row: SessionRow, copy: CopyReport | None, heard: list[MoveNews], expected: Decision | None
) -> None:
    assert decided(row, fleet_of(make_copy(), copy), *heard) == expected


COMMITTED = make_copy(epoch=3, move_id="m-1", committed=True, granted_through=8)


@pytest.mark.parametrize(
    ("row", "copy", "secure"),
    [
        (make_row("paused", epoch=3, worker="w-2", incarnation="i-2"), COMMITTED, True),
        (make_row("paused", epoch=3, worker="w-2", incarnation="i-2"), ARRIVED, False),
        (AFTER, COMMITTED, False),
        (AFTER, make_copy(epoch=3, move_id="m-1", committed=True, granted_through=7), True),
        (AFTER, make_copy(epoch=3, move_id="m-1", granted_through=7), False),
        (AFTER, make_copy(epoch=3, move_id="m-1", committed=True, state="finished"), True),
        (AFTER, make_copy(epoch=3, move_id="m-1", committed=True, state="failed", granted_through=7), False),
        (AFTER, None, False),
    ],
)
def test_what_may_make_no_chunk_is_secure_once_its_worker_knows(
    row: SessionRow, copy: CopyReport | None, secure: bool
) -> None:
    assert is_secure(row, copy) is secure


def test_it_has_moved_for_good_once_nobody_else_has_what_is_secure() -> None:
    out_of_credit = make_copy(epoch=3, move_id="m-1", committed=True, granted_through=7)
    assert decided(AFTER, fleet_of(make_copy(), out_of_credit)) is None
    assert decided(AFTER, fleet_of(None, out_of_credit)) == Over("moved")
    assert decided(AFTER, fleet_of(None, COMMITTED)) is None


@pytest.mark.parametrize(
    ("source", "back"),
    [
        (make_copy(), True),
        (None, False),
        (make_copy(state="superseded"), False),
        (make_copy(move_id="m-0"), False),
        (make_copy(move_id="m-0", committed=True), True),
    ],
)
def test_the_source_gets_it_back_if_it_can_go_on(source: CopyReport | None, back: bool) -> None:
    event = hand_back(AFTER, MOVE, fleet_of(source), 0.0, "lost")
    lost = OwnerLost(3, "it was moved to worker w-2, which could not go on: lost")
    assert event == (HandedBack(3, "w-1", "i-1") if back else lost)
    assert isinstance(hand_back(AFTER, MOVE, fleet_of(source), 9.0, "lost"), OwnerLost), "it is silent too"


@pytest.mark.parametrize(
    ("worker", "copy", "move", "expected"),
    [
        ("w-2", PROVEN, None, HandedOver("w-2", "i-2", 3)),
        ("w-2", make_copy(epoch=3, state="superseded"), None, None),
        ("w-2", ARRIVED, MOVE, None),
        ("w-2", ARRIVED, None, CallOff("nobody knows of this move any more")),
        ("w-1", make_copy(move_id="m-1", committed=True), None, None),
        ("w-1", make_copy(), None, None),
    ],
)
def test_a_copy_the_row_does_not_know(
    worker: str, copy: CopyReport, move: Move | None, expected: HandedOver | CallOff | None
) -> None:
    assert of_stray(BEFORE, worker, "i-2", copy, move) == expected
