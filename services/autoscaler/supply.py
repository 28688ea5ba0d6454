"""Whether workers may be started now. One that ends unexpectedly is replaced after a pause that doubles, and
not at all once too many have ended within a window. Where workers are started in vain, again and again, and
none is ever ready, only one at a time is tried, ever more seldom: a model that can't start must not burn
money for ever.
"""

from __future__ import annotations

import math

import msgspec

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LONGEST_TRIAL_S = 3600.0
_MOST_DOUBLINGS = 16


class Patience(msgspec.Struct, frozen=True):
    """`restart_limit`: how many unexpected ends per wanted worker within `restart_window_s` are answered by a
    new start; and how many starts in vain, with none between that wasn't.
    """

    restart_limit: int
    restart_window_s: float


class Crashes(msgspec.Struct, frozen=True):
    """When workers ended unexpectedly, or could not be started, the oldest first. `in_vain`: those of them
    that had never been ready, since the last time that one was.
    """

    at: tuple[float, ...] = ()
    in_vain: tuple[float, ...] = ()

    def and_one(self, at: float, *, in_vain: bool) -> Crashes:
        return Crashes((*self.at, at), (*self.in_vain, at) if in_vain else self.in_vain)

    def remembered(self, patience: Patience, ready_at: float, now: float) -> Crashes:
        """`ready_at`: when one that was ordered became ready, lately."""
        return Crashes(
            tuple(at for at in self.at if at > now - patience.restart_window_s),
            tuple(at for at in self.in_vain if at > ready_at),
        )


class Supply(msgspec.Struct, frozen=True):
    """`most`: how many nodes may be started now. `pause_s`: until more may be. `failed`: too many have ended,
    nothing is tried for a while. `reason`: in words, "" if nothing is wrong.
    """

    most: int
    pause_s: float = 0.0
    failed: bool = False
    reason: str = ""


def supply(
    missing: int, booting: int, crashes: Crashes, desired: int, patience: Patience, now: float
) -> Supply:
    """`missing`: nodes that are to be started. `booting`: workers that were and have not been ready since."""
    count = len(crashes.at)
    if len(crashes.in_vain) > patience.restart_limit:
        return _trial(booting, crashes.in_vain, patience, now)
    if count > patience.restart_limit * max(1, desired):
        left_s = crashes.at[0] + patience.restart_window_s - now
        words = f"{count} workers ended unexpectedly within {patience.restart_window_s:g} s"
        return Supply(0, left_s, True, f"{words}; no other is started until some time has passed")
    if not count:
        return Supply(missing)
    pause_s = min(_FIRST_PAUSE_S * 2.0 ** min(count - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE_S)
    left_s = crashes.at[-1] + pause_s - now
    if left_s <= 0:
        return Supply(missing)
    return Supply(0, left_s, reason=f"a worker ended unexpectedly, the next starts in {left_s:.1f} s")


def _trial(booting: int, in_vain: tuple[float, ...], patience: Patience, now: float) -> Supply:
    doublings = min(len(in_vain) - patience.restart_limit - 1, _MOST_DOUBLINGS)
    pause_s = min(patience.restart_window_s * 2.0**doublings, _LONGEST_TRIAL_S)
    left_s = in_vain[-1] + pause_s - now
    reason = f"none of the last {len(in_vain)} workers that were started was ever ready"
    if left_s > 0:
        return Supply(0, left_s, True, f"{reason}; another one is tried in {_words(left_s)}")
    return Supply(0 if booting else 1, math.inf, False, f"{reason}; one is tried")


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
