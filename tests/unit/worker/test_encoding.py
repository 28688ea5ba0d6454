"""Chunks encoded beside each other: each session's come in order, one's failure is its own."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from services.worker import encoding
from services.worker.copies import Copy
from services.worker.encode import EncodeSettings, Frames
from services.worker.encoding import Encoding, threads_for
from services.worker.making import Made, Pictured, span_of
from services.worker.orders import Order, begin
from tests.fixtures.worker_wire import new_own

WAIT_S = 30.0
FRAMES = np.zeros((2, 64, 96, 3), np.uint8)


def orders(key: int, count: int) -> list[Order]:
    copy = Copy(key, new_own(), 0.0, located=True)
    copy.show(copy.own, 0.0)
    return [begin(copy, 1.0, 0.0) for _ in range(count)]


def pictured(order: Order, frames: Callable[[], Frames]) -> Pictured:
    return Pictured(order, span_of(order), frames, 0.0, 0.0, None)


def test_one_sessions_chunks_come_in_order_and_wait_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "cores", lambda: 3)
    made: list[tuple[int, int]] = []
    failed: list[tuple[int, str]] = []
    go_on, other_made = threading.Event(), threading.Event()

    def deliver(one: Made) -> None:
        made.append((one.order.copy.key, one.order.index))
        if one.order.copy.key == 2:
            other_made.set()

    def late() -> Frames:
        assert go_on.wait(WAIT_S)
        return FRAMES

    at_once = Encoding(
        8.0, EncodeSettings(), deliver, lambda order, why: failed.append((order.copy.key, str(why)))
    )
    first, second, third = orders(1, 3)
    at_once.put(pictured(first, late))
    at_once.put(pictured(second, lambda: FRAMES))
    at_once.put(pictured(orders(2, 1)[0], lambda: FRAMES))
    assert other_made.wait(WAIT_S)
    at_once.put(pictured(orders(3, 1)[0], lambda: FRAMES[:, :, :, :2]))
    at_once.put(pictured(third, lambda: FRAMES))
    go_on.set()
    at_once.finish()
    assert made == [(2, 0), (1, 0), (1, 1), (1, 2)]
    assert [key for key, _ in failed] == [3]
    assert "must be uint8 RGB" in failed[0][1]


def test_a_chunk_whose_predecessor_never_comes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "cores", lambda: 2)
    monkeypatch.setattr(encoding, "ENCODE_LIMIT_S", 0.05)
    go_on, said = threading.Event(), threading.Event()
    made: list[int] = []
    failed: list[tuple[int, str]] = []

    def hangs() -> Frames:
        assert go_on.wait(WAIT_S)
        return FRAMES

    def fail(order: Order, why: Exception) -> None:
        failed.append((order.index, str(why)))
        said.set()

    at_once = Encoding(8.0, EncodeSettings(), lambda one: made.append(one.order.index), fail)
    first, second = orders(1, 2)
    at_once.put(pictured(first, hangs))
    at_once.put(pictured(second, lambda: FRAMES))
    assert said.wait(WAIT_S)
    go_on.set()
    at_once.finish()
    assert (made, [index for index, _ in failed]) == ([0], [1])
    assert "the chunk before" in failed[0][1]


def test_an_encoder_gets_half_the_cores_and_eight_at_most() -> None:
    assert [threads_for(cores) for cores in (1, 2, 4, 16, 64)] == [1, 1, 2, 8, 8]
