"""Which copies a worker keeps when its slots are full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Resident(NamedTuple):
    """A copy that holds a slot. `ended`: finished, failed or superseded. `used_at`: when it last did or was
    told something.
    """

    key: int
    ended: bool
    paused: bool
    used_at: float


class Admission(NamedTuple):
    """`admitted` with `evict` None: a slot is free; else that copy must go first."""

    admitted: bool
    evict: int | None = None


def admit(residents: Sequence[Resident], slots: int, newcomer_paused: bool) -> Admission:
    """Room for one more? Ended copies go first, then paused ones, the longest unused first; active ones
    never.

    A paused newcomer displaces no paused copy: two of them would take turns for ever.
    """
    if len(residents) < slots:
        return Admission(True)
    leaving = [r for r in residents if r.ended or (r.paused and not newcomer_paused)]
    if not leaving:
        return Admission(False)
    first = min(leaving, key=lambda r: (not r.ended, r.used_at, r.key))
    return Admission(True, first.key)
