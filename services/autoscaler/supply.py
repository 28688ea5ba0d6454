"""Whether workers may be started now. One that ends unexpectedly is replaced after a pause that doubles, and
not at all once too many have ended within a window: a model that can't start must not burn money for ever.
"""

from __future__ import annotations

import math

import msgspec

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Patience(msgspec.Struct, frozen=True):
    """`restart_limit`: how many unexpected ends per wanted worker within `restart_window_s` are answered by a
    new start.
    """

    restart_limit: int
    restart_window_s: float


class Crashes(msgspec.Struct, frozen=True):
    """When workers ended unexpectedly, or could not be started; the oldest first."""

    at: tuple[float, ...] = ()

    def and_one(self, at: float) -> Crashes:
        return Crashes((*self.at, at))

    def within(self, patience: Patience, now: float) -> Crashes:
        return Crashes(tuple(at for at in self.at if at > now - patience.restart_window_s))


def pause_s(crashes: Crashes, desired: int, patience: Patience, now: float) -> float:
    """How long until a worker may be started; 0: now, infinite: too many have ended."""
    count = len(crashes.at)
    if not count:
        return 0.0
    if count > patience.restart_limit * max(1, desired):
        return math.inf
    pause = min(_FIRST_PAUSE_S * 2.0 ** min(count - 1, 16), _LONGEST_PAUSE_S)
    return max(0.0, crashes.at[-1] + pause - now)


def in_words(crashes: Crashes, pause: float, patience: Patience) -> str:
    if math.isinf(pause):
        return (
            f"{len(crashes.at)} workers ended unexpectedly within {patience.restart_window_s:g} s; "
            "no other is started until some time has passed"
        )
    return f"a worker ended unexpectedly, the next starts in {pause:.1f} s"
