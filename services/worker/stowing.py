"""An operator wants a session's state on the device, or in host memory: step by step, between the others'
steps.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from services.worker.copies import Copy
from services.worker.errands import Later
from services.worker.offload import Copying
from services.worker.tiers import DEVICE, NONE, Kept
from shared.contracts.fleet import PhaseTime

if TYPE_CHECKING:
    from services.worker.shelf import Shelf


class Stowed(NamedTuple):
    """`tier`: where the state is now. `bytes`: how much was left to copy."""

    tier: str
    bytes: int
    phases: list[PhaseTime]


class Stowing(Later[Stowed]):
    """`wanted`: "device" or "host". A state that is busy (a chunk under way, a move) is waited for, and so is
    one on its way back already, whoever asked for that.
    """

    def __init__(self, shelf: Shelf, copy: Copy, wanted: str) -> None:
        self._shelf, self._copy, self._wanted = shelf, copy, wanted
        self._copying: Copying | None = None
        self._phases: list[PhaseTime] = []
        self._since = time.perf_counter()

    def poll(self) -> Stowed | None:
        kept = self._shelf.kept.get(self._copy)
        if kept is None and self._shelf.preparing is not self._copy:
            return self._done(NONE)
        if self._copying is not None and kept is not None:
            return self._end(kept, self._copying) if self._copying.over else None
        if kept is not None and (kept.hot == (self._wanted == DEVICE) or kept.reserved):
            return self._there(kept)
        if kept is None or self._shelf.busy(self._copy):
            self._shelf.awaited.add(self._copy)
            return None
        self._copying = self._begin(kept)
        return self._done(self._copy.tier) if self._copying is None else self.poll()

    def _there(self, kept: Kept) -> Stowed | None:
        """Where it is wanted, or on its way there."""
        if kept.brought is None or kept.brought.over:
            return self._done(self._copy.tier)
        self._copying = kept.brought
        self._phase("take")
        return None

    def _begin(self, kept: Kept) -> Copying | None:
        """None: there is no room."""
        if self._wanted == DEVICE:
            copying = self._shelf.take_in(self._copy, kept)
            self._phase("take")
        else:
            self._phase("wait")
            copying = self._shelf.take_out(self._copy, kept)
        return copying

    def _end(self, kept: Kept, copying: Copying) -> Stowed:
        """On a GPU the copy's own time; until it was seen to be over is the place's."""
        seen_s = time.perf_counter() - self._since
        copy_s = min(copying.duration_s, seen_s)
        self._phases.append(PhaseTime("copy", copy_s))
        self._since += copy_s
        if self._wanted == DEVICE:
            self._shelf.tiers.usable(kept)
            self._phase("adopt")
        else:
            self._shelf.tiers.settle()
            self._phases.append(PhaseTime("free", seen_s - copy_s))
        return self._done(self._copy.tier)

    def _phase(self, name: str) -> None:
        now = time.perf_counter()
        self._phases.append(PhaseTime(name, max(0.0, now - self._since)))
        self._since = now

    def _done(self, tier: str) -> Stowed:
        return Stowed(tier, self._copying.bytes if self._copying else 0, self._phases)
