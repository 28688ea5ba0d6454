"""What a worker's chunks take while others at the same processors make theirs, and by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bench.sim.parts import SimWorker

Made = Callable[[SimWorker], None]


class Clock(Protocol):
    """The world's."""

    now_s: float

    def at(self, at_s: float, handler: Callable[..., None], *given: object) -> None: ...


class Sharing:
    """With n workers at it, each goes forward at 1 / (1 + (n - 1) * (beside_busy - 1)) of its own pace."""

    def __init__(self, clock: Clock, beside_busy: float) -> None:
        self._clock = clock
        self._more = beside_busy - 1.0
        self._left_s: dict[SimWorker, float] = {}
        self._made: dict[SimWorker, Made] = {}
        self._seen_s = 0.0
        self._turn = 0

    def begin(self, worker: SimWorker, work_s: float, made: Made) -> None:
        """`made` is called when `worker` is through with what takes it `work_s` alone."""
        self._go_on()
        self._left_s[worker], self._made[worker] = work_s, made
        self._plan()

    def _slowed(self) -> float:
        return 1.0 + self._more * (len(self._left_s) - 1)

    def _go_on(self) -> None:
        now_s = self._clock.now_s
        past_s, self._seen_s = now_s - self._seen_s, now_s
        for worker in self._left_s:
            self._left_s[worker] -= past_s / self._slowed()

    def _plan(self) -> None:
        """Whoever is through first, if nobody joins."""
        self._turn += 1
        if self._left_s:
            worker = min(self._left_s, key=self._left_s.__getitem__)
            through_s = self._clock.now_s + max(0.0, self._left_s[worker]) * self._slowed()
            self._clock.at(through_s, self._through, worker, self._turn)

    def _through(self, worker: SimWorker, turn: int) -> None:
        if turn != self._turn:
            return
        self._go_on()
        del self._left_s[worker]
        self._plan()
        self._made.pop(worker)(worker)


def between(quantiles: Sequence[float], share: float) -> float:
    """What `share` of all values don't exceed; `quantiles` are evenly spaced, from the least to the most."""
    place = share * (len(quantiles) - 1)
    below = min(int(place), len(quantiles) - 1)
    above = min(below + 1, len(quantiles) - 1)
    return quantiles[below] + (place - below) * (quantiles[above] - quantiles[below])
