"""When a viewer is done with its chunks."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import pytest

from bench.live.credit import Credit


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop(asyncio.AbstractEventLoop):
    """Its time goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._calls: list[tuple[float, int, Timer, Callable[[int], None], int]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[int], None], index: int) -> Timer:  # type: ignore[override]
        timer = Timer()
        heapq.heappush(self._calls, (when, index, timer, callback, index))
        return timer

    def pass_s(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._calls and self._calls[0][0] <= end_s:
            self.now_s, _, timer, callback, index = heapq.heappop(self._calls)
            if not timer.cancelled:
                callback(index)
        self.now_s = end_s


@pytest.fixture
def loop() -> Loop:
    return Loop()  # type: ignore[abstract]


def test_chunks_are_granted_when_they_have_played_out(loop: Loop) -> None:
    granted: list[int] = []
    credit = Credit(loop, granted.append)
    credit.delivered(0, 1.5)
    credit.delivered(1, 3.0)
    loop.pass_s(1.4)
    assert granted == []
    loop.pass_s(0.2)
    assert granted == [0]
    loop.pass_s(5.0)
    assert granted == [0, 1]


def test_nothing_plays_during_a_pause_and_the_rest_plays_after_it(loop: Loop) -> None:
    granted: list[int] = []
    credit = Credit(loop, granted.append)
    credit.delivered(0, 1.5)
    loop.pass_s(1.0)
    credit.hold()
    credit.delivered(1, 2.0)
    credit.hold()
    loop.pass_s(60.0)
    assert granted == []
    credit.go_on()
    loop.pass_s(0.4)
    assert granted == []
    loop.pass_s(0.2)
    assert granted == [0]
    loop.pass_s(1.3)
    assert granted == [0]
    loop.pass_s(0.2)
    assert granted == [0, 1]
