import pytest

from services.placement import lifecycle
from services.placement.facts import (
    ClosedByUser,
    CopyFailed,
    CopyFinished,
    Event,
    HandedBack,
    HandedOver,
    MoveProposed,
    OwnerLost,
    PausedByUser,
    Placed,
    RefusedLater,
    ResumedByUser,
    RungSet,
    Steered,
    SteppedDown,
    SteppedUp,
    Unwatched,
    UnwatchedTooLong,
    Watched,
)
from services.placement.lifecycle import TABLE, LifecycleBroken, Step, TellDrop, TellOwn, step
from shared.contracts.events import EVENT_NAMES
from shared.contracts.session import Input, Refusal
from shared.store.rows import SessionRow
from tests.unit.placement.examples import make_row

NOW = 50.0
QUEUED, ACTIVE, PAUSED = make_row("queued"), make_row("active"), make_row("paused")
NEW = make_row("queued", epoch=0)
HOMELESS = make_row("paused", worker="", incarnation="")
UNWATCHED = make_row("paused", paused_by="unwatched", unwatched_since=20.0)
TRIED = make_row("active", failures=lifecycle.MAX_REPLACEMENTS)
MOVING = make_row("active", given_epoch=5)
MOVING_PAUSED = make_row("paused", given_epoch=5)
STEPPED = make_row("active", rung="full", served_rung="low")
BLUE = [Input("prompt", "a blue ball")]

OWN, DROP = TellOwn("w-1"), TellDrop("w-1", 2)

# before, event → status, owner, epoch, commands, public events
CHANGES: list[tuple[SessionRow, Event, tuple[str, str, int, tuple[object, ...], tuple[str, ...]]]] = [
    (NEW, Placed("w-9", "i-9"), ("active", "w-9", 1, (TellOwn("w-9"),), ("started",))),
    (QUEUED, Placed("w-9", "i-9"), ("active", "w-9", 3, (TellOwn("w-9"),), ("moved",))),
    (QUEUED, Steered(BLUE, []), ("queued", "", 2, (), ("steered",))),
    (QUEUED, PausedByUser(), ("paused", "", 2, (), ("paused",))),
    (QUEUED, Unwatched(20.0), ("paused", "", 2, (), ("paused",))),
    (QUEUED, UnwatchedTooLong(), ("closed", "", 2, (), ("closed",))),
    (QUEUED, ClosedByUser(), ("closed", "", 2, (), ("closed",))),
    (ACTIVE, OwnerLost(2, "silent"), ("queued", "", 2, (), ())),
    (
        make_row("queued", given_epoch=5),
        Placed("w-9", "i-9"),
        ("active", "w-9", 6, (TellOwn("w-9"),), ("moved",)),
    ),
    (ACTIVE, MoveProposed(2), ("active", "w-1", 2, (OWN,), ())),
    (PAUSED, MoveProposed(2), ("paused", "w-1", 2, (OWN,), ())),
    (QUEUED, MoveProposed(2), ("queued", "", 2, (), ())),
    (MOVING, HandedOver("w-9", "i-9", 4), ("active", "w-9", 4, (TellOwn("w-9"),), ("moved",))),
    (MOVING_PAUSED, HandedOver("w-9", "i-9", 5), ("paused", "w-9", 5, (TellOwn("w-9"),), ("moved",))),
    (
        make_row("queued", given_epoch=5),
        HandedOver("w-9", "i-9", 5),
        ("active", "w-9", 5, (TellOwn("w-9"),), ("moved",)),
    ),
    (
        make_row("paused", worker="", incarnation="", given_epoch=5),
        HandedOver("w-9", "i-9", 5),
        ("paused", "w-9", 5, (TellOwn("w-9"),), ("moved",)),
    ),
    (MOVING, HandedBack(2, "w-9", "i-9"), ("active", "w-9", 6, (TellOwn("w-9"),), ("moved",))),
    (MOVING_PAUSED, HandedBack(2, "w-9", "i-9"), ("paused", "w-9", 6, (TellOwn("w-9"),), ("moved",))),
    (MOVING, OwnerLost(2, "silent"), ("queued", "", 2, (), ())),
    (ACTIVE, RungSet("low"), ("active", "w-1", 2, (OWN,), ())),
    (QUEUED, RungSet("low"), ("queued", "", 2, (), ())),
    (ACTIVE, SteppedDown("low", "p-1"), ("active", "w-1", 2, (OWN,), ())),
    (PAUSED, SteppedDown("low", "p-1"), ("paused", "w-1", 2, (OWN,), ())),
    (QUEUED, SteppedDown("low", "p-1"), ("queued", "", 2, (), ())),
    (STEPPED, SteppedUp("p-2"), ("active", "w-1", 2, (OWN,), ())),
    (NEW, RefusedLater(9.0, "its turn would come in 9 s", "p-3"), ("closed", "", 0, (), ("closed",))),
    (ACTIVE, Steered(BLUE, ["zorp"]), ("active", "w-1", 2, (OWN,), ("steered",))),
    (ACTIVE, PausedByUser(), ("paused", "w-1", 2, (OWN,), ("paused",))),
    (ACTIVE, Unwatched(20.0), ("paused", "w-1", 2, (OWN,), ("paused",))),
    (ACTIVE, UnwatchedTooLong(), ("closed", "", 2, (DROP,), ("closed",))),
    (ACTIVE, CopyFinished(2, 12), ("closed", "", 2, (DROP,), ("closed",))),
    (ACTIVE, CopyFailed(2, "no memory"), ("queued", "", 2, (DROP,), ())),
    (TRIED, CopyFailed(2, "no memory"), ("failed", "", 2, (DROP,), ("failed",))),
    (ACTIVE, ClosedByUser(), ("closed", "", 2, (DROP,), ("closed",))),
    (PAUSED, OwnerLost(2, "silent"), ("paused", "", 2, (), ())),
    (PAUSED, Steered(BLUE, []), ("paused", "w-1", 2, (OWN,), ("steered",))),
    (PAUSED, ResumedByUser(owner_has_room=True), ("active", "w-1", 2, (OWN,), ("resumed",))),
    (PAUSED, ResumedByUser(owner_has_room=False), ("queued", "", 2, (), ("resumed",))),
    (HOMELESS, ResumedByUser(owner_has_room=True), ("queued", "", 2, (), ("resumed",))),
    (PAUSED, CopyFailed(2, "no memory"), ("paused", "", 2, (DROP,), ())),
    (PAUSED, CopyFinished(2, 12), ("closed", "", 2, (DROP,), ("closed",))),
    (PAUSED, UnwatchedTooLong(), ("closed", "", 2, (DROP,), ("closed",))),
    (PAUSED, ClosedByUser(), ("closed", "", 2, (DROP,), ("closed",))),
    (UNWATCHED, Watched(owner_has_room=True), ("active", "w-1", 2, (OWN,), ("resumed",))),
    (UNWATCHED, Watched(owner_has_room=False), ("queued", "", 2, (), ("resumed",))),
    (UNWATCHED, ResumedByUser(owner_has_room=True), ("active", "w-1", 2, (OWN,), ("resumed",))),
    (UNWATCHED, PausedByUser(), ("paused", "w-1", 2, (OWN,), ())),
]


def stepped(row: SessionRow, event: Event) -> Step:
    outcome = step(row, event, NOW)
    assert isinstance(outcome, Step)
    return outcome


@pytest.mark.parametrize(("row", "event", "expected"), CHANGES)
def test_what_happens(row: SessionRow, event: Event, expected: tuple[object, ...]) -> None:
    after, commands, public = stepped(row, event)
    assert (after.status, after.worker, after.epoch, commands, public) == expected
    assert (after.revision, after.updated_at) == (row.revision + 1, NOW)
    assert set(public) <= set(EVENT_NAMES)


VOID: list[tuple[SessionRow, Event]] = [
    (ACTIVE, Placed("w-9", "i-9")),
    (PAUSED, Placed("w-9", "i-9")),
    (ACTIVE, OwnerLost(1, "an earlier owner")),
    (PAUSED, OwnerLost(1, "an earlier owner")),
    (HOMELESS, OwnerLost(2, "there is none")),
    (ACTIVE, CopyFinished(1, 12)),
    (ACTIVE, CopyFailed(1, "an earlier copy")),
    (HOMELESS, CopyFailed(2, "nobody's copy")),
    (PAUSED, PausedByUser()),
    (ACTIVE, MoveProposed(1)),
    (HOMELESS, MoveProposed(2)),
    (QUEUED, MoveProposed(1)),
    (make_row("queued", epoch=0), MoveProposed(0)),
    (MOVING, HandedOver("w-9", "i-9", 2)),
    (MOVING, HandedOver("w-1", "i-1", 5)),
    (MOVING, HandedBack(1, "w-9", "i-9")),
    (MOVING, HandedBack(2, "w-1", "i-1")),
    (HOMELESS, HandedBack(2, "w-9", "i-9")),
    (ACTIVE, RungSet("")),
    (make_row("active", rung="low"), SteppedDown("low", "p-1")),
    (STEPPED, SteppedDown("low", "p-1")),
    (ACTIVE, SteppedUp("p-1")),
    (QUEUED, RefusedLater(9.0, "a worker had it once", "p-1")),
    (make_row("queued", epoch=0, given_epoch=1), RefusedLater(9.0, "a worker may have it", "p-1")),
    *((make_row(ended, served_rung="low"), SteppedUp("p-1")) for ended in ("closed", "failed")),
    *((make_row(ended, given_epoch=5), HandedOver("w-9", "i-9", 5)) for ended in ("closed", "failed")),
    (ACTIVE, ResumedByUser(owner_has_room=True)),
    (QUEUED, ResumedByUser(owner_has_room=True)),
    (PAUSED, Watched(owner_has_room=True)),
    (UNWATCHED, Unwatched(30.0)),
    *((make_row(ended), ClosedByUser()) for ended in ("closed", "failed")),
    *((make_row(ended), OwnerLost(2, "gone")) for ended in ("closed", "failed")),
    *((make_row(ended), CopyFinished(2, 12)) for ended in ("closed", "failed")),
]


@pytest.mark.parametrize(("row", "event"), VOID)
def test_what_comes_late_or_twice_changes_nothing(row: SessionRow, event: Event) -> None:
    assert stepped(row, event) == Step(row)


@pytest.mark.parametrize("ended", ["closed", "failed"])
@pytest.mark.parametrize(
    "event", [Steered(BLUE, []), PausedByUser(), ResumedByUser(owner_has_room=True), RungSet("low")]
)
def test_an_ended_session_refuses_and_says_why(ended: str, event: Event) -> None:
    refusal = step(make_row(ended), event, NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "session_ended"
    assert ended in refusal.message
    assert "it was over" in refusal.message


def test_steering_replaces_the_kinds_it_names_and_keeps_the_others() -> None:
    row = make_row("active", inputs=[Input("prompt", "a red ball"), Input("camera", "left")])
    after = stepped(row, Steered(BLUE, ["zorp"])).row
    assert after.inputs == [Input("camera", "left"), *BLUE]
    assert (after.inputs_version, after.warnings) == (2, ["zorp"])


def test_who_paused_it_decides_who_resumes_it() -> None:
    by_user = stepped(UNWATCHED, PausedByUser()).row
    assert (by_user.phase, by_user.paused_by) == ("user", "user")
    assert stepped(by_user, Watched(owner_has_room=True)).row is by_user


def test_a_failing_copy_is_tried_elsewhere_three_times() -> None:
    row = ACTIVE
    for failures in range(1, lifecycle.MAX_REPLACEMENTS + 1):
        row = stepped(row, CopyFailed(row.epoch, "no memory")).row
        assert (row.status, row.failures) == ("queued", failures)
        row = stepped(row, Placed("w-1", "i-1")).row
    failed = stepped(row, CopyFailed(row.epoch, "no memory")).row
    assert failed.status == "failed"
    assert "no memory" in failed.reason


def test_a_finished_session_knows_how_many_chunks_it_has() -> None:
    finished = stepped(ACTIVE, CopyFinished(2, 12)).row
    assert (finished.next_chunk, finished.reason, finished.ended_at) == (12, "finished", NOW)


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        (RungSet("low"), ""),
        (RungSet("lowest", cheaper=True), ""),
        (RungSet("high"), "low"),
        (RungSet(""), "low"),
    ],
)
def test_who_was_stepped_down_stays_so_unless_it_asks_for_no_more(asked: RungSet, served: str) -> None:
    after = stepped(STEPPED, asked).row
    assert (after.rung, after.served_rung) == (asked.rung, served)


def test_a_row_names_the_decision_that_changed_it_last() -> None:
    placed = stepped(NEW, Placed("w-1", "i-1", "p-1")).row
    lower = stepped(placed, SteppedDown("low", "p-2")).row
    proposed = stepped(lower, MoveProposed(1)).row
    moved = stepped(proposed, HandedOver("w-9", "i-9", 2, "p-3")).row
    proposed = stepped(moved, MoveProposed(2)).row
    by_operator = stepped(proposed, HandedOver("w-1", "i-1", 3)).row
    seen = [row.decision for row in (placed, lower, moved, by_operator, stepped(moved, SteppedUp("p-4")).row)]
    assert seen == ["p-1", "p-2", "p-3", "p-3", "p-4"]


def test_who_is_refused_may_try_again_with_the_same_key() -> None:
    row = make_row("queued", epoch=0, idempotency_key="k-1")
    after = stepped(row, RefusedLater(8.2, "all workers are full", "p-1")).row
    assert after.reason == "not taken: all workers are full; try again in 9 s"
    assert after.idempotency_key is None


def test_an_epoch_nobody_was_given_is_not_believed() -> None:
    assert stepped(MOVING, HandedOver("w-9", "i-9", 6)).row is MOVING


def test_no_epoch_is_given_twice_whatever_becomes_of_a_move() -> None:
    row, given = ACTIVE, [ACTIVE.epoch]
    for event in (
        MoveProposed(2),  # given up
        MoveProposed(2),
        HandedOver("w-2", "i-2", 4),
        HandedBack(4, "w-1", "i-1"),
        MoveProposed(5),
        OwnerLost(5, "silent"),
        Placed("w-3", "i-3"),
    ):
        before, row = row, stepped(row, event).row
        if row.given_epoch > before.given_epoch:
            given.append(row.given_epoch)
        assert row.epoch in given
    assert given == sorted(set(given))
    assert (row.worker, row.epoch) == ("w-3", 7)


def test_a_malformed_row_does_not_leave() -> None:
    with pytest.raises(LifecycleBroken, match="has no owner"):
        lifecycle.opened(make_row("queued", worker="w-1", incarnation="i-1"))
    with pytest.raises(LifecycleBroken, match="incarnation"):
        step(QUEUED, Placed("w-1", ""), NOW)


def test_every_event_has_its_place_in_the_table() -> None:
    assert set(TABLE) == set(Event.__args__)
