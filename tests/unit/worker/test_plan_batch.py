from hypothesis import given
from hypothesis import strategies as st

from services.worker.plan_batch import Candidate, may_begin, plan_batch
from shared.contracts.session import CREDIT_WINDOW

READY = Candidate(
    key=1, stepping=False, held=False, next_chunk=0, unappended=0, granted_through=-1, needed_at=10.0
)

candidates = st.lists(
    st.builds(
        Candidate,
        key=st.integers(0, 1000),
        stepping=st.booleans(),
        held=st.booleans(),
        next_chunk=st.integers(0, 8),
        unappended=st.integers(0, 3),
        granted_through=st.integers(-1, 8),
        needed_at=st.floats(0, 100),
        max_chunks=st.none() | st.integers(0, 8),
    ),
    unique_by=lambda candidate: candidate.key,
)


def test_begins_only_what_is_wanted_has_credit_and_room() -> None:
    assert may_begin(READY)
    assert may_begin(READY._replace(next_chunk=1))
    assert not may_begin(READY._replace(next_chunk=2))
    assert may_begin(READY._replace(next_chunk=2, granted_through=0))
    assert not may_begin(READY._replace(held=True))
    assert not may_begin(READY._replace(unappended=CREDIT_WINDOW))
    assert not may_begin(READY._replace(next_chunk=1, max_chunks=1))


def test_most_urgent_first_even_before_a_chunk_under_way() -> None:
    under_way = READY._replace(key=2, stepping=True, held=True, needed_at=11.0)
    assert plan_batch([under_way, READY], 1) == [1]
    assert plan_batch([under_way, READY], 2) == [1, 2]
    assert plan_batch([under_way, READY], 2, beginning=False) == [2]
    assert plan_batch([READY._replace(needed_at=11.0), under_way], 1) == [2]
    assert plan_batch([READY._replace(held=True)], 1) == []


@given(candidates, st.integers(1, 4), st.booleans())
def test_no_waiting_copy_is_more_urgent_than_a_planned_one(
    some: list[Candidate], max_rows: int, beginning: bool
) -> None:
    planned = plan_batch(some, max_rows, beginning)
    ready = {c.key: c.needed_at for c in some if c.stepping or (beginning and may_begin(c))}
    assert len(planned) == min(max_rows, len(ready)) == len(set(planned))
    latest = max((ready[key] for key in planned), default=0.0)
    assert all(needed_at >= latest for key, needed_at in ready.items() if key not in planned)


def test_a_new_session_waits_for_a_round_at_most_however_late_the_others_are() -> None:
    """Four sessions on a device that keeps up with two: deadlines move on with grants, so nobody is passed
    over.
    """
    chunk_s, now = 1.0, 100.0
    sessions = {key: READY._replace(key=key, needed_at=now - 3 + key / 10) for key in range(4)}
    sessions[9] = READY._replace(key=9, needed_at=now)
    served = []
    for _ in range(10):
        [key] = plan_batch(sessions.values(), 1)
        now += chunk_s / 2
        sessions[key] = sessions[key]._replace(needed_at=now)
        served.append(key)
    assert 9 in served[:5]
    assert all(served.count(key) == 2 for key in sessions)
