import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.curve import HEADROOM, Curve, Pace, capacity, paying_rows, round_s

times_s = st.floats(1e-4, 10.0)
curves = st.builds(
    lambda one, more: Curve("kind", ((1, one), *sorted(more.items()))),
    times_s,
    st.dictionaries(st.sampled_from([2, 3, 4, 6, 8, 16]), times_s),
)


def curve_of(*step_s: float) -> Curve:
    return Curve("kind", tuple((2**n, seconds) for n, seconds in enumerate(step_s)))


@pytest.mark.parametrize(
    ("curve", "ready", "expected"),
    [
        (curve_of(1.0, 1.1, 1.3), 1, 1),
        (curve_of(1.0, 1.1, 1.3), 3, 2),
        (curve_of(1.0, 1.1, 1.3), 9, 4),
        (curve_of(1.0, 1.94, 3.8), 4, 4),
        (curve_of(1.0, 1.94), 4, 1),
        (curve_of(1.0, 2.5, 2.0), 4, 4),
        (curve_of(1.0, 1.1, 3.0), 4, 2),
    ],
)
def test_as_many_rows_as_gain_more_than_chance_would(curve: Curve, ready: int, expected: int) -> None:
    assert paying_rows(curve, ready) == expected


@given(curves, st.integers(1, 20))
def test_never_slower_than_one_by_one_and_never_a_size_that_was_not_measured(
    curve: Curve, ready: int
) -> None:
    rows = paying_rows(curve, ready)
    assert rows <= ready
    assert rows in dict(curve.step_s)
    assert curve.rate(rows) >= curve.rate(1)
    assert paying_rows(Curve("kind", curve.step_s[::-1]), ready) == rows


@pytest.mark.parametrize(
    ("device_s", "encode_s", "expected"),
    [(0.29, 0.01, 3), (0.31, 0.01, 2), (0.01, 0.4, 2), (5.0, 0.1, 1), (0.0, 0.0, 64), (0.001, 0.001, 64)],
)
def test_capacity_is_what_keeps_up_with_a_tenth_to_spare(
    device_s: float, encode_s: float, expected: int
) -> None:
    pace = Pace(curve_of(device_s / 2), forwards=2, decode_s=0.0, encode_s=encode_s)
    assert capacity(pace, chunk_duration_s=1.0, slots=64) == expected


def test_capacity_counts_on_rows_stepped_together() -> None:
    pace = Pace(curve_of(0.1, 0.12), forwards=2, decode_s=0.01, encode_s=0.0)
    assert [round(round_s(pace, sessions), 2) for sessions in (1, 2, 3, 6)] == [0.21, 0.26, 0.47, 0.78]
    assert capacity(pace, chunk_duration_s=1.0, slots=64) == 6


@given(curves, times_s, st.integers(1, 40))
def test_every_number_of_sessions_up_to_capacity_keeps_up(curve: Curve, decode_s: float, slots: int) -> None:
    pace = Pace(curve, 3, decode_s, 0.0)
    sessions = capacity(pace, 10.0, slots)
    assert 1 <= sessions <= slots
    assert sessions == 1 or all(round_s(pace, n) <= HEADROOM * 10.0 for n in range(1, sessions + 1))
