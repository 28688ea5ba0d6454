"""What is kept of each copy, on the device or in host memory, and who gives way when room is short. Device
thread only; `states` is its only user, and `stowing`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from services.worker import metrics, residency
from services.worker.copies import Copy
from services.worker.offload import Copying
from services.worker.residency import Resident
from services.worker.tiers import DEVICE, HOST, NONE, Kept, Tiers

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Shelf:
    """Those of `under_way`, the copies with a chunk under way, and of `held`, by moves, stay where they are,
    and so does the one that something long is done for (`preparing`). `awaited`: somebody waits, as was said
    lately, for the end of their chunk under way. `on_lost`: a state found no room in host memory.
    """

    tiers: Tiers
    under_way: Collection[Copy] = ()
    on_lost: Callable[[Copy], None] = lambda _: None
    kept: dict[Copy, Kept] = field(default_factory=dict)
    held: set[Copy] = field(default_factory=set)
    preparing: Copy | None = None
    awaited: set[Copy] = field(default_factory=set)

    def busy(self, copy: Copy) -> bool:
        """Whether its state must stay where it is for now."""
        return copy in self.under_way or copy in self.held or copy is self.preparing

    def room(self) -> int:
        """How many copies could get a place on the device besides those that can't lose theirs."""
        preparing = () if self.preparing is None else (self.preparing,)
        return self.tiers.slots - len({*self.under_way, *self.held, *preparing})

    def make_ready(self) -> None:
        """One place free ahead of need, if a paused copy has it and host memory has room for that."""
        self.tiers.settle()
        if not self.tiers.free and not self.tiers.leaving:
            self._let_one_go(paused_only=True)

    def take_out(self, copy: Copy, kept: Kept) -> Copying | None:
        """Suspend it; its place is free once the copy is over. None: host memory has no room at all."""
        if not self._has_mirror(copy, kept, at_any_price=True):
            return None
        return self._suspend(copy, kept)

    def take_in(self, copy: Copy, kept: Kept) -> Copying | None:
        """The suspended one is on its way to the device. None: there is no room, or it is lost."""
        return self.fetch(copy, kept) if self.make_room(copy) else None

    def fetch(self, copy: Copy, kept: Kept) -> Copying | None:
        """There is room. None: it is lost."""
        try:
            copying = self.tiers.fetch(kept)
        except Exception as error:
            logger.exception("not fetched", extra={"session": copy.session})
            traceback.clear_frames(error.__traceback__)  # its place is free though somebody keeps the error
            self.lose(copy, "it could not be copied back")
            return None
        self.tell(copy)
        return copying

    def make_room(self, newcomer: Copy) -> bool:
        """A free place, whoever has to leave for it."""
        self.tiers.settle()
        while not self.tiers.free:
            if self.tiers.leaving:
                self.tiers.hurry()
            elif not self._let_one_go(paused_only=False, newcomer=newcomer):
                return False
        return True

    def _let_one_go(self, *, paused_only: bool, newcomer: Copy | None = None) -> bool:
        """`paused_only`: ahead of need, so that nobody else loses anything for it."""
        copies = {copy.key: copy for copy, kept in self.kept.items() if kept.hot and not self.busy(copy)}
        idle = [Resident(c.key, ended=False, paused=c.own.paused, used_at=c.used_at) for c in copies.values()]
        key = residency.first_to_leave(idle, paused_only=paused_only)
        if key is None:
            return False
        copy = copies[key]
        kept = self.kept[copy]
        if self._has_mirror(copy, kept, at_any_price=not paused_only, newcomer=newcomer):
            self._suspend(copy, kept)
        elif paused_only:
            return False
        else:
            self.lose(copy, "no room in host memory")
        return True

    def _has_mirror(
        self, copy: Copy, kept: Kept, *, at_any_price: bool, newcomer: Copy | None = None
    ) -> bool:
        """Room in host memory: free, or that of a copy which is hot; at any price, that of the suspended copy
        longest unused.
        """
        pool = self.tiers.pool
        kept.mirror = kept.mirror or pool.lease()
        if kept.mirror is None:
            others = [c for c, other in self.kept.items() if other.mirror and c not in {copy, newcomer}]
            hot = [other for other in others if self.kept[other].hot and not self.kept[other].coming]
            suspended = [other for other in others if not self.kept[other].hot]
            if hot:
                newest = max(hot, key=lambda c: (not c.own.paused, c.used_at, c.key))
                self.tiers.drop_mirror(self.kept[newest])
            elif suspended and at_any_price:
                self.lose(min(suspended, key=lambda c: (c.used_at, c.key)), "host memory is full")
            kept.mirror = pool.lease()
        return kept.mirror is not None

    def _suspend(self, copy: Copy, kept: Kept) -> Copying | None:
        """None: it is lost."""
        started = time.perf_counter()
        try:
            copying = self.tiers.suspend(kept)
        except Exception:
            logger.exception("not suspended", extra={"session": copy.session})
            self.lose(copy, "it could not be copied")
            return None
        metrics.tier_seconds.labels("suspend").observe(time.perf_counter() - started)
        self.tell(copy)
        return copying

    def lose(self, copy: Copy, why: str) -> None:
        logger.warning("a state is lost: %s", why, extra={"session": copy.session})
        self.drop(copy)
        self.on_lost(copy)

    def drop(self, copy: Copy) -> None:
        self.tiers.drop(self.kept.pop(copy))
        self.tell(copy)

    def tell(self, copy: Copy) -> None:
        kept = self.kept.get(copy)
        copy.tier = NONE if kept is None else DEVICE if kept.hot else HOST
