from hypothesis import given
from hypothesis import strategies as st

from services.worker.curve import Curve
from services.worker.plan_batch import Candidate, may_begin, plan_batch
from shared.contracts.session import CREDIT_WINDOW

READY = Candidate(
    key=1, stepping=False, held=False, next_chunk=0, unappended=0, granted_through=-1, needed_at=10.0
)

ALONE = Curve("kind", ((1, 1.0),))
PAIRS = Curve("kind", ((1, 1.0), (2, 1.1)))
OTHER = Curve("other", ((1, 1.0), (2, 1.2), (4, 1.5)))

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
        rung=st.sampled_from(["", "fast", "wide"]),
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
    assert plan_batch([under_way, READY], {"": ALONE}, 9) == [1]
    assert plan_batch([under_way, READY], {"": PAIRS}, 9) == [1, 2]
    assert plan_batch([under_way, READY], {"": PAIRS}, 0) == [2]
    assert plan_batch([READY._replace(needed_at=11.0), under_way], {"": ALONE}, 9) == [2]
    assert plan_batch([READY._replace(held=True)], {"": ALONE}, 9) == []


def test_no_more_chunks_begin_than_there_is_room_for() -> None:
    three = [READY._replace(key=key, needed_at=key) for key in range(3)]
    assert plan_batch(three, {"": PAIRS}, 1) == [0]
    assert plan_batch([*three, READY._replace(key=9, stepping=True)], {"": PAIRS}, 1) == [0, 9]


def test_rows_go_with_those_whose_forward_is_alike() -> None:
    curves = {"": PAIRS, "fast": PAIRS, "wide": OTHER}
    some = [READY._replace(key=k, rung=r, needed_at=k) for k, r in enumerate(["", "wide", "fast", "wide"])]
    assert plan_batch(some, curves, 9) == [0, 2]
    assert plan_batch(some[1:], curves, 9) == [1, 3]


@given(candidates, st.integers(0, 4))
def test_the_most_urgent_goes_first_with_those_next_that_may_join(
    some: list[Candidate], beginnings: int
) -> None:
    curves = {"": PAIRS, "fast": PAIRS, "wide": OTHER}
    planned = plan_batch(some, curves, beginnings)
    assert planned == plan_batch(some[::-1], curves, beginnings)
    ready = {c.key: c for c in some if c.stepping or (beginnings and may_begin(c))}
    assert bool(planned) == bool(ready)
    if planned:
        rows = [ready[key] for key in planned]
        assert rows[0].needed_at == min(c.needed_at for c in ready.values())
        assert len({curves[c.rung].kind for c in rows}) == 1
        assert len(rows) in dict(curves[rows[0].rung].step_s)
        assert sum(not c.stepping for c in rows) <= beginnings


@given(
    st.lists(st.tuples(st.sampled_from(["", "fast", "wide"]), st.floats(90, 110)), min_size=2, max_size=12),
    st.integers(1, 4),
)
def test_every_session_is_served_however_late_the_others_are(
    sessions: list[tuple[str, float]], beginnings: int
) -> None:
    """A device that is slower than they play: deadlines move on with grants, so nobody is passed over."""
    curves = {"": PAIRS, "fast": PAIRS, "wide": OTHER}
    now = 100.0
    waiting = {
        key: READY._replace(key=key, rung=rung, needed_at=needed_at)
        for key, (rung, needed_at) in enumerate(sessions)
    }
    served: list[int] = []
    for _ in range(3 * len(sessions)):
        planned = plan_batch(waiting.values(), curves, beginnings)
        now += 20.0
        for key in planned:
            waiting[key] = waiting[key]._replace(needed_at=now + key / 100)
        served += planned
    assert set(served) == set(waiting)


def test_a_new_session_waits_for_a_round_at_most_however_late_the_others_are() -> None:
    """Four sessions on a device that keeps up with two."""
    chunk_s, now = 1.0, 100.0
    sessions = {key: READY._replace(key=key, needed_at=now - 3 + key / 10) for key in range(4)}
    sessions[9] = READY._replace(key=9, needed_at=now)
    served = []
    for _ in range(10):
        [key] = plan_batch(sessions.values(), {"": ALONE}, 9)
        now += chunk_s / 2
        sessions[key] = sessions[key]._replace(needed_at=now)
        served.append(key)
    assert 9 in served[:5]
    assert all(served.count(key) == 2 for key in sessions)
