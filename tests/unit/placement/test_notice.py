import pytest

from services.placement.facts import (
    CopyFailed,
    CopyFinished,
    Event,
    OwnerLost,
    Unwatched,
    UnwatchedTooLong,
    Watched,
)
from services.placement.fleet_view import FleetView
from services.placement.notice import Asked, must_repeat, of_owner, of_viewers, unneeded
from shared.contracts.fleet import CopyReport, Drop
from shared.store.rows import SessionRow
from tests.unit.placement.examples import SESSION, make_copy, make_report, make_row

ACTIVE, PAUSED = make_row("active"), make_row("paused")
ONCE = Asked(1, ())


def fleet_with(*copies: CopyReport, **changes: object) -> FleetView:
    fleet = FleetView(5.0, 0.0)
    fleet.report(make_report("w-1", 1, *copies, **changes), 0.0)
    return fleet


def noticed(row: SessionRow, fleet: FleetView, asked: Asked = ONCE) -> Event | None:
    return of_owner(row, fleet, 0.0, 100.0, asked)


@pytest.mark.parametrize(
    ("copy", "event"),
    [
        (make_copy(), None),
        (make_copy(state="paused"), None),
        (make_copy(state="unheard-of"), None),
        (make_copy(state="finished", next_chunk=12), CopyFinished(2, 12)),
        (make_copy(state="failed", error="no memory"), CopyFailed(2, "no memory")),
        (make_copy(state="superseded"), None),
        (make_copy(state="failed", epoch=1), None),
    ],
)
def test_what_a_copy_says(copy: CopyReport, event: Event | None) -> None:
    assert noticed(ACTIVE, fleet_with(copy)) == event


def test_a_lost_owner_is_noticed_whatever_its_copy_said() -> None:
    fleet = fleet_with(make_copy(state="finished"), incarnation="i-2")
    assert noticed(ACTIVE, fleet) == OwnerLost(2, "its worker was started anew")
    assert noticed(make_row("queued"), fleet) is None


@pytest.mark.parametrize(
    ("row", "asked", "state", "event"),
    [
        (ACTIVE, Asked(0, ()), "draining", None),
        (ACTIVE, Asked(1, ()), "draining", OwnerLost(2, "its worker takes no further session")),
        (ACTIVE, Asked(9, ()), "ready", None),
        (ACTIVE, Asked(2, ["no_slot", "no_slot"]), "ready", None),
        (ACTIVE, Asked(3, ["no_slot"] * 3), "ready", OwnerLost(2, "its worker had no room")),
        (ACTIVE, Asked(3, ["wrong_model"] * 3), "ready", CopyFailed(2, "its worker refused it: wrong_model")),
        (PAUSED, Asked(3, ["wrong_model"] * 3), "draining", None),
    ],
)
def test_a_copy_that_does_not_come(row: SessionRow, asked: Asked, state: str, event: Event | None) -> None:
    assert noticed(row, fleet_with(state=state), asked) == event


@pytest.mark.parametrize(
    ("row", "since", "event"),
    [
        (ACTIVE, None, None),
        (ACTIVE, 75.0, None),
        (ACTIVE, 60.0, Unwatched(60.0)),
        (ACTIVE, 10.0, UnwatchedTooLong()),
        (PAUSED, None, None),
        (PAUSED, 60.0, None),
        (PAUSED, 10.0, UnwatchedTooLong()),
        (make_row("paused", paused_by="unwatched"), None, Watched(owner_has_room=False)),
        (make_row("queued"), 60.0, Unwatched(60.0)),
    ],
)
def test_what_viewers_mean(row: SessionRow, since: float | None, event: Event | None) -> None:
    assert of_viewers(row, since, 100.0, pause_s=30.0, close_s=80.0) == event


def test_a_command_is_repeated_until_the_report_agrees() -> None:
    assert must_repeat(ACTIVE, fleet_with())
    assert must_repeat(ACTIVE, fleet_with(make_copy(revision=4)))
    assert must_repeat(ACTIVE, fleet_with(make_copy(epoch=1, revision=9)))
    assert not must_repeat(ACTIVE, fleet_with(make_copy()))
    assert must_repeat(PAUSED, fleet_with(make_copy(revision=4)))
    assert not must_repeat(PAUSED, fleet_with()), "its copy made room for others"
    assert not must_repeat(ACTIVE, FleetView(5.0, 0.0)), "nobody there to hear it"
    assert not must_repeat(make_row("queued"), fleet_with())


def test_a_move_s_target_is_told_until_it_knows() -> None:
    arrived = make_copy(move_id="m-1")
    assert must_repeat(ACTIVE, fleet_with(arrived), "m-1")
    assert not must_repeat(ACTIVE, fleet_with(make_copy(move_id="m-1", committed=True)), "m-1")
    assert must_repeat(PAUSED, fleet_with(), "m-1"), "its copy must be there, or the source goes on"


def test_a_superseded_owner_waits_for_whoever_took_over_to_report() -> None:
    fleet = fleet_with(make_copy(state="superseded"))
    fleet.report(make_report("w-1", 2, make_copy(state="superseded")), 4.9)
    assert of_owner(ACTIVE, fleet, 4.9, 100.0, ONCE) is None
    fleet.report(make_report("w-1", 3, make_copy(state="superseded")), 5.0)
    assert of_owner(ACTIVE, fleet, 5.0, 100.0, ONCE) == CopyFailed(2, "another worker wrote to its chunk log")


OLD, OWNED = make_copy(epoch=1), make_copy()
COMMITTED = make_copy(move_id="m-1", committed=True, granted_through=8)
OUT_OF_CREDIT = make_copy(move_id="m-1", committed=True, granted_through=7)
ARRIVED = make_copy(move_id="m-1", next_chunk=10)


@pytest.mark.parametrize(
    ("row", "owned", "drop"),
    [
        (ACTIVE, OWNED, Drop(SESSION, 1)),
        (ACTIVE, make_copy(state="finished"), Drop(SESSION, 1)),
        (ACTIVE, None, None),
        (ACTIVE, make_copy(epoch=1), None),
        (ACTIVE, make_copy(state="failed"), None),
        (ACTIVE, make_copy(state="superseded"), None),
        (ACTIVE, ARRIVED, None),
        (ACTIVE, make_copy(move_id="m-1", committed=True, granted_through=8), None),
        (
            ACTIVE,
            make_copy(move_id="m-1", committed=True, granted_through=7),
            Drop(SESSION, 1, unless_past=10),
        ),
        (PAUSED, ARRIVED, None),
        (PAUSED, COMMITTED, Drop(SESSION, 1, unless_past=10)),
        (PAUSED, None, Drop(SESSION, 1)),
    ],
)
def test_an_earlier_owner_s_copy_goes_once_the_owner_s_has_proved_itself(
    row: SessionRow, owned: CopyReport | None, drop: Drop | None
) -> None:
    others = {"w-2": OLD} | ({"w-1": owned} if owned else {})
    assert unneeded(row, "w-2", OLD, others, moving=False) == drop


def test_a_copy_is_spared_while_its_session_moves() -> None:
    assert unneeded(PAUSED, "w-2", OLD, {"w-2": OLD}, moving=True) is None
    assert unneeded(make_row("queued"), "w-2", ARRIVED, {"w-2": ARRIVED}, moving=True) is None
    newer = make_copy(epoch=3)
    assert unneeded(ACTIVE, "w-2", newer, {"w-2": newer, "w-1": OWNED}, moving=False) is None


def test_a_copy_is_dropped_once_nobody_needs_it() -> None:
    def dropped(row: SessionRow | None, worker: str, copy: CopyReport, *others: CopyReport) -> bool:
        held = {worker: copy} | {f"w-{at}": other for at, other in enumerate(others, 8)}
        return unneeded(row, worker, copy, held, moving=False) is not None

    assert dropped(None, "w-1", make_copy())
    assert not dropped(ACTIVE, "w-1", make_copy(epoch=1)), "its owner is about to renew it"
    assert not dropped(ACTIVE, "w-1", make_copy())
    ownerless = make_row("paused", worker="", incarnation="")
    assert not dropped(ownerless, "w-1", make_copy(state="paused")), "it may be resumed there"
    assert not dropped(make_row("queued"), "w-1", make_copy(state="paused"))
    assert dropped(ownerless, "w-1", make_copy()), "nobody owns what it makes"
    assert not dropped(ownerless, "w-1", make_copy(state="paused", epoch=1)), "the best there is"
    assert dropped(ownerless, "w-1", make_copy(state="paused", epoch=1), make_copy(state="paused"))
