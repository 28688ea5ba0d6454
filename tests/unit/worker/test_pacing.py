import pytest

from services.worker.pacing import due_at, needed_at


def test_due_when_the_last_of_three_is_there() -> None:
    assert due_at(3.0, 2.0, 1.0) == 3.0
    assert due_at(1.0, 3.0, 2.0) == 3.0
    assert due_at(2.0, 1.0, 3.0) == 3.0


@pytest.mark.parametrize(
    ("granted_through", "index", "expected"),
    [(-1, 0, 100.0), (-1, 1, 101.0), (4, 5, 100.0), (4, 6, 101.0), (4, 3, 100.0)],
)
def test_needed_once_everything_before_has_played(granted_through: int, index: int, expected: float) -> None:
    assert needed_at(100.0, granted_through, index, chunk_duration_s=1.0) == expected
