"""Prompts that are encoded before they show."""

from services.worker.copies import Copy
from services.worker.curve import Curve
from services.worker.plan_batch import plan_batch
from services.worker.roster import Roster
from shared.contracts.moves import HandOver
from tests.fixtures.worker_wire import new_own, next_own, steered

CURVES = {"": Curve("kind", ((1, 1.0),))}


def new_copy(prompt: str = "red") -> tuple[Roster, Copy]:
    roster = Roster(1.0, lambda: None, encodes=True)
    copy = roster.add(new_own(prompt))
    roster.locate(copy, 0)
    return roster, copy


def may_begin(roster: Roster, copy: Copy) -> bool:
    return plan_batch([roster.candidate(copy, None)], CURVES, 1) == [copy.key]


def test_a_new_copy_waits_for_its_prompt() -> None:
    roster, copy = new_copy()
    assert not may_begin(roster, copy)
    assert (copy.report().state, roster.lacks_text(copy)) == ("encoding", copy.own)
    roster.show(copy, copy.own, "embedding")
    assert may_begin(roster, copy)
    assert (copy.report().state, roster.lacks_text(copy)) == ("running", None)
    order = roster.begin(copy)
    assert (order.prompt, order.text) == ("red", "embedding")


def test_the_prompt_from_before_shows_until_the_new_one_is_encoded() -> None:
    roster, copy = new_copy()
    roster.show(copy, copy.own, "of red")
    blue = steered(copy.own, "blue")
    assert roster.apply(copy, blue).from_chunk == 0
    before = roster.begin(copy)
    assert (before.prompt, before.inputs_version, before.text) == ("red", 1, "of red")
    assert roster.owned(copy).from_chunk == 1
    roster.begin(copy)
    roster.show(copy, blue, "of blue")
    after = roster.begin(copy)
    assert (after.index, after.prompt, after.inputs_version, after.text) == (2, "blue", 2, "of blue")
    assert roster.owned(copy).from_chunk == 2


def test_what_came_too_late_is_not_shown() -> None:
    roster, copy = new_copy()
    roster.show(copy, copy.own, "of red")
    blue = steered(copy.own, "blue")
    roster.apply(copy, blue)
    roster.apply(copy, steered(blue, "red"))
    roster.show(copy, blue, "of blue")
    order = roster.begin(copy)
    assert (order.prompt, order.inputs_version, order.text) == ("red", 3, "of red")


def test_commands_without_a_new_prompt_need_no_encoder() -> None:
    roster, copy = new_copy()
    roster.show(copy, copy.own, "of red")
    roster.apply(copy, next_own(steered(copy.own, "red"), paused=False))
    assert (roster.begin(copy).inputs_version, roster.lacks_text(copy)) == (2, None)
    roster, copy = new_copy("")
    assert (may_begin(roster, copy), roster.lacks_text(copy)) == (True, None)


def test_a_copy_that_came_by_a_move_goes_on_with_the_prompt_of_its_state() -> None:
    roster, copy = new_copy()
    blue = steered(copy.own, "blue")
    for shown, version in (("red", 1), ("blue", 2)):
        hand_over = HandOver(7, blue, 3, shown, b"", 9)
        roster.transit.land(copy, blue, hand_over, "move")
        order = roster.begin(copy)
        assert (order.prompt, order.inputs_version) == (shown, version)
        assert roster.lacks_text(copy) == blue
