"""Up at once, down only to the most that was wanted within a time: what keeps every rule here from
flapping.
"""

from __future__ import annotations

Wanted = tuple[tuple[float, int], ...]
"""(when last, how many), newest last, each less than all before it: what is greater makes earlier ones
moot.
"""


def remember(wanted: Wanted, now_s: float, count: int, hold_s: float) -> Wanted:
    """Those that still count, and `count` as the newest. To be called at least every second. After a clock
    that went back, what was wanted later than now was wanted now.
    """
    held = [(min(at_s, now_s), n) for at_s, n in wanted if n > count and at_s > now_s - hold_s]
    return (*held, (now_s, count))


def most(wanted: Wanted) -> int:
    """The most that was wanted within the time."""
    return wanted[0][1]
