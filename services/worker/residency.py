"""Which copies a worker keeps, and which of them on the device, when there isn't room for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

SPARE_SLOTS = 2  # hot slots beyond capacity: a resumed session needn't wait for a paused one to leave


class Room(NamedTuple):
    """`hot`: copies on the device, and active ones at most. `host`: suspended copies besides."""

    hot: int
    host: int = 0

    @property
    def copies(self) -> int:
        return self.hot + self.host


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


def admit(residents: Sequence[Resident], room: Room, newcomer_paused: bool) -> Admission:
    """Room for one more? Ended copies go first, then paused ones, the longest unused first; active ones
    never, and there are never more of those than hot slots.

    A paused newcomer displaces no paused copy: two of them would take turns for ever.
    """
    active = sum(not r.ended and not r.paused for r in residents)
    if active >= room.hot and not newcomer_paused:
        return Admission(False)
    if len(residents) < room.copies:
        return Admission(True)
    leaving = [r for r in residents if r.ended or (r.paused and not newcomer_paused)]
    if not leaving:
        return Admission(False)
    first = min(leaving, key=lambda r: (not r.ended, r.used_at, r.key))
    return Admission(True, first.key)


def first_to_leave(idle: Iterable[Resident], *, paused_only: bool) -> int | None:
    """The key of the copy that leaves the device next: paused ones first, the longest unused first.

    `idle`: copies on the device without a chunk under way. `paused_only`: room is made ahead of need, for
    which no running copy leaves.
    """
    able = [r for r in idle if r.paused or not paused_only]
    if not able:
        return None
    return min(able, key=lambda r: (not r.paused, r.used_at, r.key)).key


def hot_slots(wanted: int, capacity: int, model_slots: int | None, fitting: int) -> int:
    """How many copies the device holds: `wanted`, or (if 0) what keeps up and some spare, but no more than
    the model has places for and memory fits. 0: not even one fits.
    """
    most = fitting if model_slots is None else model_slots
    return min(wanted or capacity + SPARE_SLOTS, most)


def host_slots(allocated: int) -> int:
    """How many suspended copies may be kept in a pool of so many slots: one stays free, so that a copy can
    leave the device before another comes back.
    """
    return max(0, allocated - 1)
