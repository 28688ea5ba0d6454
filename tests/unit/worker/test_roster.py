from services.worker.copies import FAILED, Copy
from services.worker.curve import Curve
from services.worker.plan_batch import plan_batch
from services.worker.roster import Roster
from shared.contracts.moves import HandOver
from tests.fixtures.worker_wire import new_own, next_own, steered

CURVES = {"": Curve("kind", ((1, 1.0),))}


def roster_with_copy() -> tuple[Roster, Copy, list[str]]:
    changes: list[str] = []
    roster = Roster(1.0, lambda: changes.append("changed"))
    copy = roster.add(new_own())
    roster.locate(copy, 5)
    return roster, copy, changes


def test_a_new_prompt_shows_in_the_next_chunk_not_begun() -> None:
    roster, copy, _ = roster_with_copy()
    order = roster.begin(copy)
    owned = roster.apply(copy, later := steered(copy.own, "blue"))
    assert (order.index, order.inputs_version, owned.from_chunk, owned.next_chunk) == (5, 1, 6, 5)
    assert roster.begin(copy).inputs == later.inputs
    assert roster.apply(copy, next_own(later)).from_chunk == 6


def test_two_prompts_at_once_begin_one_chunk_again() -> None:
    """Time that there was for either isn't there for both."""
    roster, copy, _ = roster_with_copy()
    other = roster.add(new_own())
    roster.locate(other, 5)
    for each in (copy, other):
        roster.begin(each)
        each.again_until = float("inf")
    assert roster.apply(copy, steered(copy.own, "blue")).from_chunk == 5
    assert roster.apply(other, steered(other.own, "green")).from_chunk == 6


def test_credit_only_grows() -> None:
    roster, copy, _ = roster_with_copy()
    roster.grant(copy, 7)
    roster.grant(copy, 3)
    roster.apply(copy, next_own(copy.own, granted_through=4))
    assert copy.granted_through == 7


def test_chunks_from_before_a_new_beginning_are_void() -> None:
    roster, copy, _ = roster_with_copy()
    before = roster.begin(copy)
    roster.locate(copy, 9)
    after = roster.begin(copy)
    assert (before.stale, after.stale, after.index) == (True, False, 9)
    roster.appended(before)
    assert copy.next_append == 9
    roster.appended(after)
    assert copy.next_append == 10
    roster.remove(copy)
    assert after.stale


def test_makes_nothing_until_the_log_was_asked_or_once_it_failed() -> None:
    roster = Roster(1.0, lambda: None)
    copy = roster.add(new_own())
    assert not plan_batch([roster.candidate(copy, None)], CURVES, 1)
    roster.locate(copy, 0)
    assert plan_batch([roster.candidate(copy, None)], CURVES, 1) == [copy.key]
    roster.end(copy, FAILED, "broken")
    roster.end(copy, FAILED, "again")
    assert not plan_batch([roster.candidate(copy, None)], CURVES, 1)
    [report] = roster.reports()
    assert (report.state, report.error) == ("failed", "broken")


def test_every_change_is_told() -> None:
    roster, copy, changes = roster_with_copy()
    told = len(changes)
    roster.grant(copy, 1)
    roster.grant(copy, 1)  # viewers repeat themselves every second: no change
    roster.apply(copy, next_own(copy.own, paused=True))
    roster.remove(copy)
    assert len(changes) == told + 3
    assert len(roster) == 0


def test_a_frozen_copy_finishes_what_is_on_the_device_and_begins_nothing() -> None:
    roster, copy, _ = roster_with_copy()
    roster.grant(copy, 9)
    order = roster.begin(copy)
    roster.transit.freeze(copy)
    assert plan_batch([roster.candidate(copy, order)], CURVES, 1) == [copy.key]
    assert not plan_batch([roster.candidate(copy, None)], CURVES, 1)
    assert roster.transit.closing() == [copy]
    roster.transit.boundary_told(copy)
    assert roster.transit.closing() == []
    roster.transit.freeze(copy)
    assert roster.transit.closing() == [copy]
    roster.transit.thaw(copy)
    assert plan_batch([roster.candidate(copy, None)], CURVES, 1) == [copy.key]


def test_a_copy_that_arrives_takes_a_slot_and_nothing_else_until_its_state_is_there() -> None:
    roster = Roster(1.0, lambda: None)
    copy = roster.add(own := new_own(paused=True), arriving=True)
    assert (len(roster), roster.reports()) == (0, [])
    [resident] = roster.residents()
    assert (resident.paused, resident.ended) == (False, False)
    hand_over = HandOver(7, own, 6, "a red ball", b"", 8)
    roster.transit.land(copy, next_own(own, paused=False, epoch=2), hand_over, "m-1")
    assert not plan_batch([roster.candidate(copy, None)], CURVES, 1)
    roster.transit.arrive(copy)
    [report] = roster.reports()
    assert (report.epoch, report.next_chunk, report.move_id, report.committed) == (2, 7, "m-1", False)
    order = roster.begin(copy)
    assert (order.index, order.stale, copy.inputs_from) == (7, False, 6)
    roster.transit.commit(copy)
    assert roster.reports()[0].committed
    roster.transit.prove(copy)
    assert (roster.reports()[0].move_id, roster.reports()[0].committed) == ("", False)
