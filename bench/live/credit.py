"""When a viewer that plays in real time is done with which chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple


class _Playing(NamedTuple):
    """`timer` None: held, with `ends_s` still to play; else the loop's time when it has played."""

    ends_s: float
    timer: asyncio.TimerHandle | None


class Credit:
    """`grant(index)` is called once chunk `index` has played out; while the viewer pauses, nothing plays."""

    def __init__(self, loop: asyncio.AbstractEventLoop, grant: Callable[[int], None]) -> None:
        self._loop = loop
        self._grant = grant
        self._held = False
        self._playing: dict[int, _Playing] = {}

    def delivered(self, index: int, left_s: float) -> None:
        """It will have played in `left_s` of play."""
        if self._held:
            self._playing[index] = _Playing(left_s, None)
        else:
            self._start(index, left_s)

    def hold(self) -> None:
        now_s = self._loop.time()
        self._held = True
        for index, playing in self._playing.items():
            if playing.timer is not None:
                playing.timer.cancel()
                self._playing[index] = _Playing(max(0.0, playing.ends_s - now_s), None)

    def go_on(self) -> None:
        self._held = False
        for index, playing in list(self._playing.items()):
            if playing.timer is None:
                self._start(index, playing.ends_s)

    def _start(self, index: int, left_s: float) -> None:
        ends_s = self._loop.time() + left_s
        self._playing[index] = _Playing(ends_s, self._loop.call_at(ends_s, self._played, index))

    def _played(self, index: int) -> None:
        del self._playing[index]
        self._grant(index)
