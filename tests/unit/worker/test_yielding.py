"""Long work beside chunks that play, stepped on a clock as the engine would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.again import Work
from services.worker.yielding import PATIENCE_S, piece_first

PIECE_S, STEP_S = 0.03, 0.06
NOW = 100.0


def done_at(mine: Work, others: list[Work]) -> tuple[float, list[float]]:
    """When the work and its chunk are done, and by how much each of the others is late."""
    left, now, put_off_s, late = mine.left_s, NOW, 0.0, []
    others = sorted(others)
    while left > 1e-9:
        if piece_first(mine._replace(left_s=left), others, put_off_s, now, 0.0):
            now, left = now + PIECE_S, left - PIECE_S
            continue
        first, *rest = others
        now, put_off_s = now + STEP_S, put_off_s + STEP_S
        others = [first._replace(left_s=first.left_s - STEP_S), *rest]
        if others[0].left_s <= 1e-9:
            late.append(now - others.pop(0).needed_at)
    ended = now
    for other in others:
        now += other.left_s
        late.append(now - other.needed_at)
    return ended, late


works = st.builds(
    Work,
    st.floats(NOW, NOW + 2.0),
    st.integers(1, 9),
    st.integers(1, 5).map(lambda steps: steps * STEP_S),
    st.just(None),
)
crowds = st.lists(works, max_size=6, unique_by=lambda work: work.key)


@given(others=crowds, pieces=st.integers(1, 20), needed_in_s=st.floats(-1.0, 2.0))
def test_it_is_done_however_many_others_there_are(
    others: list[Work], pieces: int, needed_in_s: float
) -> None:
    mine = Work(NOW + needed_in_s, 0, pieces * PIECE_S)
    assert done_at(mine, others)[0] <= NOW + mine.left_s + PATIENCE_S + STEP_S + 1e-6


@given(others=crowds, pieces=st.integers(1, 20))
def test_late_itself_it_makes_nobody_late_who_could_be_in_time(others: list[Work], pieces: int) -> None:
    """As long as the others don't take longer than its patience."""
    alone, at = [], NOW
    for other in sorted(others):
        at += other.left_s
        alone.append(at - other.needed_at)
    if at - NOW >= PATIENCE_S - STEP_S or max(alone, default=0.0) > 0:
        return
    _, late = done_at(Work(NOW - 1.0, 0, pieces * PIECE_S), others)
    assert max(late, default=0.0) <= 0.01 + 1e-6


def test_who_is_late_anyway_puts_it_off_no_longer_than_a_chunk_of_its_own_would() -> None:
    hungry = [Work(NOW - 0.1, 1, 0.3), Work(NOW - 0.2, 2, 0.3)]
    assert piece_first(Work(NOW - 0.3, 0, 0.3), hungry, 0.0, NOW, 0.1)
    assert not piece_first(Work(NOW - 0.15, 0, 0.3), hungry, 0.0, NOW, 0.1)


@pytest.mark.parametrize(("needed_in_s", "first"), [(0.5, True), (0.9, False)])
def test_in_time_it_is_one_of_the_chunks(needed_in_s: float, first: bool) -> None:
    others = [Work(NOW + 0.7, 1, 0.3)]
    assert piece_first(Work(NOW + needed_in_s, 0, 0.3), others, 0.0, NOW, 0.1) is first


def test_before_its_chunk_may_begin_it_fills_idle_time_only() -> None:
    assert piece_first(None, [], 0.0, NOW, 0.0)
    assert not piece_first(None, [Work(NOW + 60.0, 1, 0.1)], 2 * PATIENCE_S, NOW, 0.0)
