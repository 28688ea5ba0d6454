import pytest

from services.worker import runner
from services.worker.encode import EncodeSettings
from services.worker.measure import Measured, capacity, chunk_duration_s, measure


@pytest.mark.parametrize(
    ("device_s", "encode_s", "expected"),
    [(0.29, 0.01, 3), (0.31, 0.01, 2), (0.01, 0.4, 2), (5.0, 0.1, 1), (0.0, 0.0, 64), (0.001, 0.001, 64)],
)
def test_capacity_is_what_keeps_up_with_a_tenth_to_spare(
    device_s: float, encode_s: float, expected: int
) -> None:
    assert capacity(Measured(device_s, encode_s), chunk_duration_s=1.0, slots=64) == expected


def test_measures_a_real_session() -> None:
    tiny = runner.load("tests.fixtures.tiny_model", "tiny", "cpu", "")
    measured = measure(tiny, EncodeSettings())
    assert measured.device_s > 0
    assert measured.encode_s > 0
    assert chunk_duration_s(tiny.spec) == 1.0
    [point] = measured.curve("tiny-default")
    assert (point.batch, point.chunk_s, point.rung) == (1, measured.device_s, "tiny-default")
