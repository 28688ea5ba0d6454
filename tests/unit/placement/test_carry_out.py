from services.placement.carry_out import Context, order, reason_of, workers_of
from services.placement.facts import (
    MoveProposed,
    Placed,
    RefusedLater,
    ResumedByUser,
    SteppedDown,
    SteppedUp,
    Watched,
)
from services.placement.policies.view import (
    Act,
    Decision,
    Memory,
    Move,
    Place,
    Refuse,
    StepDown,
    StepUp,
    Suspend,
    Waiting,
)
from tests.unit.placement.examples import make_row

CONTEXT = Context(
    rows={
        "s-1": make_row("queued"),
        "s-2": make_row("paused", worker="w-1", incarnation="i-1"),
        "s-3": make_row("paused", worker="w-1", incarnation="i-0"),
    },
    resuming={"s-2": ResumedByUser, "s-3": Watched},
    incarnations={"w-1": "i-1", "w-2": "i-2"},
    floor_rung="low",
    decision="p-1",
)
WAITING = CONTEXT._replace(resuming={})


def decided(*acts: Act, waiting: tuple[Waiting, ...] = ()) -> Decision:
    return Decision(acts, waiting, 0.0, Memory())


def test_a_queued_session_is_placed_on_the_process_that_was_seen() -> None:
    found = order(decided(Place("s-1", "w-2", "why")), WAITING)
    assert found.events == {"s-1": [Placed("w-2", "i-2", "p-1")]}


def test_a_paused_one_goes_on_where_it_is_else_with_a_new_epoch() -> None:
    at_home = order(decided(Place("s-2", "w-1", "why")), CONTEXT)
    assert at_home.events["s-2"] == [ResumedByUser(owner_has_room=True)]
    away = order(decided(Place("s-2", "w-2", "why")), CONTEXT)
    assert away.events["s-2"] == [ResumedByUser(owner_has_room=False), Placed("w-2", "i-2", "p-1")]


def test_one_whose_state_can_be_brought_waits_for_that_where_it_is_placed() -> None:
    places = [Place("s-2", "w-2", "why"), Place("s-1", "w-2", "why")]
    away = order(decided(*places), CONTEXT._replace(carried={"s-1", "s-2"}))
    assert away.hand_overs == places
    assert away.events["s-2"] == [ResumedByUser(owner_has_room=False), MoveProposed(2)]
    assert away.events["s-1"] == [MoveProposed(2)], "it is queued already"


def test_too_many_at_once_wait_for_the_next_decision_rather_than_lose_their_state() -> None:
    places = [Place("s-2", "w-2", "why"), Place("s-1", "w-2", "why")]
    found = order(decided(*places), CONTEXT._replace(resuming={"s-2": ResumedByUser}, later={"s-1", "s-2"}))
    assert (found.hand_overs, found.events) == ([], {"s-2": [ResumedByUser(owner_has_room=False)]})


def test_a_worker_that_was_started_anew_has_no_state_of_it() -> None:
    found = order(decided(Place("s-3", "w-1", "why")), CONTEXT)
    assert found.events["s-3"] == [Watched(owner_has_room=False), Placed("w-1", "i-1", "p-1")]


def test_one_that_resumes_and_finds_no_room_is_queued() -> None:
    found = order(decided(waiting=(Waiting("s-2", 0), Waiting("s-3", 1))), CONTEXT)
    assert found.events == {
        "s-2": [ResumedByUser(owner_has_room=False)],
        "s-3": [Watched(owner_has_room=False)],
    }


def test_acts_on_one_session_keep_their_order() -> None:
    found = order(decided(StepDown("s-1", "why"), Place("s-1", "w-1", "why")), WAITING)
    assert found.events["s-1"] == [SteppedDown("low", "p-1"), Placed("w-1", "i-1", "p-1")]


def test_the_other_acts() -> None:
    move = Move("s-1", "w-1", "w-2", "why")
    found = order(
        decided(move, Refuse("s-1", 7.0, "full"), StepUp("s-2", "why"), Suspend("s-3", "w-1", "idle")),
        WAITING,
    )
    assert found.moves == [move]
    assert found.events == {"s-1": [RefusedLater(7.0, "full", "p-1")], "s-2": [SteppedUp("p-1")]}


def test_a_decision_in_one_line_and_whom_it_concerns() -> None:
    acts: list[Act] = [
        Place("s-1", "w-1", "room"),
        Place("s-2", "w-2", "too"),
        Move("s-3", "w-3", "w-1", "uneven"),
    ]
    assert reason_of(acts) == "2 placed, 1 moved: room"
    assert reason_of(acts, {"s-2"}) == "1 placed, 1 handed over, 1 moved: room"
    assert reason_of([]) == "queued"
    assert workers_of(acts) == ["w-1", "w-2", "w-3"]
