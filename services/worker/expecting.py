"""While a session is about to arrive, the device is kept free for it: what it is at ends, and no other step
begins, so that the newcomer's pause isn't longer by a step of somebody else's. Never at another's cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from services.worker.again import Work

_STEPS_AFTER = 1.5
"""Of its source's, from the last bytes of its pre-copy to the freeze: one at most, if they take as long."""


class Spell(NamedTuple):
    """From when and until when, by the monotonic clock."""

    begins_at: float
    ends_at: float


NEVER = Spell(0.0, 0.0)


def while_it_comes(now: float, takes_s: float, step_s: float) -> Spell:
    """`takes_s`: its pre-copy. Begun so early that a step that began just before is over by the freeze."""
    return Spell(now + max(0.0, takes_s - step_s), now + takes_s + _STEPS_AFTER * step_s)


def wait_s(spells: Iterable[Spell], now: float) -> float:
    """How long the device is to be kept free from now on."""
    return max((ends_at - now for begins_at, ends_at in spells if begins_at <= now), default=0.0)


def can_wait(works: Iterable[Work], seconds: float, now: float, after_s: float) -> bool:
    """Whether all of these are in time if the device takes to them that much later. `after_s`: from a
    chunk's last step to its being in the log.
    """
    wanted = list(works)
    return len(in_time(wanted, seconds, now, after_s)) == len(wanted)


def in_time(works: Iterable[Work], seconds: float, now: float, after_s: float) -> set[int]:
    """The keys of those that are."""
    at, keys = now + seconds, set[int]()
    for work in sorted(works):
        at += work.left_s
        if at + after_s <= work.needed_at:
            keys.add(work.key)
    return keys
