from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.ordering import (
    AwaitChunk,
    AwaitCredit,
    Cursor,
    Cut,
    FromGone,
    FromOutOfRange,
    Send,
    furthest,
    join,
    resume_at,
)
from shared.contracts.session import CREDIT_WINDOW

HELD = 4  # chunks the log below keeps


class Log:
    def __init__(self) -> None:
        self.next_made = 0

    def first_from(self, index: int) -> int | None:
        oldest = max(index, self.next_made - HELD)
        return oldest if oldest < self.next_made else None


class Watched:
    """A viewer on a log that grows and forgets: records what it was sent, and what it was told is lost."""

    def __init__(self, log: Log, cursor: Cursor) -> None:
        self.log = log
        self.cursor = cursor
        self.got: list[int] = []
        self.lost: list[int] = []

    def turn(self, *, ended: bool = False) -> None:
        step = self.cursor.step(self.log.next_made)
        if not isinstance(step, Send):
            return
        to = resume_at(step.chunk, self.log.first_from(step.chunk), self.log.next_made, ended=ended)
        if to != step.chunk:
            cut = self.cursor.cut(to)
            self.lost += range(cut.start, cut.to)
            return
        self.cursor.sending()
        self.got.append(step.chunk)
        self.cursor.sent()


ACTIONS = st.lists(
    st.one_of(st.just(("make", 0)), st.just(("turn", 0)), st.tuples(st.just("grant"), st.integers(-3, 40))),
    max_size=120,
)


@given(ACTIONS, st.integers(0, 6), st.booleans())
def test_each_chunk_once_in_order_and_none_left_out_unless_cut(
    actions: list[tuple[str, int]], made_before: int, auto: bool
) -> None:
    log = Log()
    log.next_made = made_before
    first = log.first_from(0) or 0
    viewer = Watched(log, join(first, first, log.next_made, auto=auto))
    for action, number in actions:
        granted = viewer.cursor.granted_through
        if action == "make":
            log.next_made += 1
        elif action == "turn":
            viewer.turn()
        else:
            accepted = viewer.cursor.grant(number)
            assert accepted == (number < viewer.cursor.next_index)
        assert viewer.cursor.granted_through >= granted, "credit never shrinks"
        assert viewer.cursor.granted_through < viewer.cursor.next_index, "nor passes what was sent"
        if viewer.got:
            assert viewer.got[-1] <= max(granted, viewer.cursor.granted_through) + CREDIT_WINDOW
    assert sorted(viewer.got + viewer.lost) == list(range(first, viewer.cursor.next_index))
    assert viewer.got == sorted(set(viewer.got))


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_viewer_that_grants_everything_gets_everything(first: int, more: int) -> None:
    log = Log()
    log.next_made = first
    viewer = Watched(log, join(None, first, first))
    for _ in range(more):
        log.next_made += 1
        viewer.turn()
        viewer.cursor.grant(viewer.cursor.next_index - 1)
    assert viewer.got == list(range(first, first + more))


def test_without_a_grant_only_the_window_is_sent() -> None:
    cursor = Cursor(5)
    for expected in (5, 6):
        assert cursor.step(100) == Send(expected)
        cursor.sending()
    assert cursor.step(100) == AwaitCredit(7)
    assert cursor.grant(5)
    assert cursor.step(100) == Send(7)
    assert cursor.step(7) == AwaitChunk(7)


def test_credit_auto_grants_what_was_handed_over_and_not_before() -> None:
    cursor = Cursor(0, auto=True)
    cursor.sending()
    assert cursor.granted_through == -1
    cursor.sent()
    assert cursor.granted_through == 0


def test_a_chunk_not_sent_yet_can_not_be_granted() -> None:
    cursor = Cursor(3)
    assert not cursor.grant(3)
    assert cursor.granted_through == 2


def test_joining() -> None:
    assert join(None, 4, 10).next_index == 10
    assert join(10, 4, 10).next_index == 10
    assert join(4, 4, 10).next_index == 4
    for out_of_range in (11, -1):
        with pytest.raises(FromOutOfRange):
            join(out_of_range, 4, 10)
    with pytest.raises(FromGone) as gone:
        join(3, 4, 10)
    assert gone.value.oldest_held == 4


def test_what_is_gone_is_skipped_to_the_live_edge_or_to_what_an_ended_session_left() -> None:
    assert resume_at(3, 3, 10, ended=False) == 3
    assert resume_at(3, 5, 10, ended=False) == 10
    assert resume_at(3, None, 10, ended=False) == 10
    assert resume_at(3, 5, 10, ended=True) == 5
    assert resume_at(3, None, 10, ended=True) == 10
    cursor = Cursor(3)
    assert cursor.cut(10) == Cut(3, 10)
    assert cursor.step(11) == Send(10)


def test_the_furthest_viewer_counts_and_never_falls_back() -> None:
    assert furthest([], -1) == -1
    assert furthest([Cursor(3), Cursor(8)], -1) == 7
    assert furthest([Cursor(3)], 7) == 7
