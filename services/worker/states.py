"""The model's states of the copies held: hot on the device, or suspended in host memory. Device thread
only, so others ask by `Engine.errand`.

While a session plays, what its chunks change is copied behind them to a mirror in host memory. So little is
left to copy when it is suspended, and to resume it is one copy back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from services.worker import metrics, residency
from services.worker.copies import Copy, Order
from services.worker.errands import Later
from services.worker.models.protocol import Counters, Memory, Part, State
from services.worker.offload import Copying
from services.worker.residency import Resident
from services.worker.stowing import Stowed, Stowing
from services.worker.tiers import DEVICE, HOST, NONE, Kept, Tiers

logger = logging.getLogger(__name__)


class NoRoom(RuntimeError):
    """No place on the device can be made free: all belong to chunks under way or to moves."""


@dataclass(slots=True)
class States:
    """Those of `under_way`, the copies with a chunk under way, stay where they are.

    A copy without a state here (new, or lost) gets one at its next chunk: rebuilt, where its order says of
    what, else a fresh one. `on_lost`: a state found no room in host memory.
    """

    tiers: Tiers
    write_behind: bool = True
    under_way: Collection[Copy] = ()
    on_lost: Callable[[Copy], None] = lambda _: None
    _kept: dict[Copy, Kept] = field(default_factory=dict)
    _held: set[Copy] = field(default_factory=set)

    # For chunks.

    def of(self, order: Order) -> State:
        """For a chunk that begins. Raises `NoRoom`."""
        copy = order.copy
        state = self._brought(copy)
        if state is None:
            state = self._opened(order)
        kept = self._kept[copy]
        if kept.shown != order.prompt:
            self.tiers.runner.set_prompt(state, order.prompt)
            kept.shown = order.prompt
        return state

    def fetch_ahead(self, copy: Copy) -> None:
        """A chunk of it may begin: if suspended, let its state come, where nobody running has to leave."""
        kept = self._kept.get(copy)
        if kept is None or kept.hot:
            return
        self.make_ready()
        try:
            if self.tiers.free:
                self.tiers.fetch(kept)
                self._tell(copy)
        except Exception:
            logger.exception("not fetched", extra={"session": copy.session})
            self._lose(copy, "it could not be copied back")

    def coming(self, copy: Copy) -> bool:
        """Whether its state will be there without anybody's doing, but isn't yet."""
        kept = self._kept.get(copy)
        if kept is None:
            return False
        if not kept.hot:
            return self.tiers.leaving and not self.tiers.free
        return kept.coming is not None and not kept.coming.over

    def room(self) -> int:
        """How many copies could get a place on the device besides those that can't lose theirs."""
        return self.tiers.slots - len({*self.under_way, *self._held})

    def outdated(self, copy: Copy) -> bool:
        """Whether it begins anew, while a move still holds what it was."""
        kept = self._kept.get(copy)
        return kept is not None and kept.generation != copy.generation

    def has_place(self, copy: Copy) -> bool:
        kept = self._kept.get(copy)
        return kept is not None and kept.hot

    def copy_behind(self, copy: Copy) -> None:
        """After a chunk's last forward and again after its decode: its mirror catches up, while the device
        goes on.
        """
        kept = self._kept.get(copy)
        if not self.write_behind or kept is None or not kept.hot:
            return
        try:
            kept.mirror = kept.mirror or self.tiers.pool.lease()
            if kept.mirror is not None:
                self.tiers.save(kept)
        except Exception:
            logger.exception("not copied behind", extra={"session": copy.session})
            self.tiers.drop_mirror(kept)

    def make_ready(self) -> None:
        """One place free ahead of need, if a paused copy has it and host memory has room for that."""
        self.tiers.settle()
        if not self.tiers.free and not self.tiers.leaving:
            self._let_one_go(paused_only=True)

    def forget(self) -> None:
        """Free what belongs to copies that were dropped, are over, or begin anew."""
        for copy, kept in list(self._kept.items()):
            if copy not in self._held and _over(copy, kept.generation):
                self._drop(copy)
        self.tiers.settle()
        hot = sum(kept.hot for kept in self._kept.values())
        metrics.states_held.labels("hot").set(hot)
        metrics.states_held.labels("suspended").set(len(self._kept) - hot)

    # For moves. What is held stays where it is, whatever becomes of its copy: a link may be at its bytes.

    def hold(self, copy: Copy) -> bool:
        """Have its state on the device until `let_go`. False: there is none. Raises `NoRoom`."""
        if self._brought(copy) is None:
            return False
        self._held.add(copy)
        return True

    def let_go(self, copy: Copy) -> None:
        """Idempotent. What was reserved and not adopted is freed, and so is what belongs to a copy that is
        over.
        """
        self._held.discard(copy)
        kept = self._kept.get(copy)
        if kept is not None and (kept.reserved or _over(copy, kept.generation)):
            self._drop(copy)

    def memory(self, copy: Copy) -> Memory:
        """Of a held copy. Another thread that wants to touch it calls a `fence` first."""
        return self.tiers.runner.memory(self._kept[copy].state)

    def parts(self, copy: Copy) -> Mapping[str, Part]:
        return self.tiers.runner.parts(self._kept[copy].state)

    def counters(self, copy: Copy) -> Counters:
        """Between two chunks only."""
        return self.tiers.runner.counters(self._kept[copy].state)

    def shown(self, copy: Copy) -> str:
        """The prompt its state stands for."""
        return self._kept[copy].shown

    def fence(self) -> Callable[[], None]:
        """For any thread: returns once the device has done all it was told up to now."""
        return self.tiers.pool.fence()

    def reserve(self, copy: Copy) -> Memory:
        """A place for the state of a copy that comes by a move, held until `adopt` or `let_go`. Raises
        `NoRoom`.
        """
        if not self._make_room(copy):
            raise self._no_room()
        state = self.tiers.take(self.tiers.runner.reserve)
        self._kept[copy] = Kept(copy.generation, state=state, reserved=True)
        self._held.add(copy)
        return self.memory(copy)

    def adopt(self, copy: Copy, counters: Counters, shown: str) -> None:
        """What was reserved holds the state: it is the copy's own, of its present generation."""
        kept = self._kept[copy]
        self.tiers.runner.take_over(kept.state, counters)
        kept.generation, kept.shown, kept.reserved = copy.generation, shown, False
        self._held.discard(copy)
        self._tell(copy)

    # For an operator.

    def stow(self, copy: Copy, tier: str) -> Later[Stowed]:
        """Have its state on the "device" or in "host" memory, once no chunk of it is under way."""
        return Stowing(self, copy, tier)

    def kept(self, copy: Copy) -> Kept | None:
        return self._kept.get(copy)

    def busy(self, copy: Copy) -> bool:
        """Whether its state must stay where it is for now."""
        return copy in self.under_way or copy in self._held

    def take_out(self, copy: Copy, kept: Kept) -> Copying | None:
        """Suspend it; its place is free once the copy is over. None: host memory has no room at all."""
        if not self._has_mirror(copy, kept, at_any_price=True):
            return None
        return self._suspend(copy, kept)

    def take_in(self, copy: Copy, kept: Kept) -> Copying | None:
        """The suspended one is on its way to the device. None: there is no room."""
        if not self._make_room(copy):
            return None
        copying = self.tiers.fetch(kept)
        self._tell(copy)
        return copying

    # Within.

    def _brought(self, copy: Copy) -> State | None:
        """Its state, fit for use; None: there is none. Raises `NoRoom`."""
        kept = self._kept.get(copy)
        if kept is None:
            return None
        started = time.perf_counter()
        resumed = not kept.hot
        if resumed and self.take_in(copy, kept) is None:
            raise self._no_room()
        try:
            return self.tiers.usable(kept)
        except Exception:
            self._drop(copy)
            raise
        finally:
            if resumed:
                metrics.tier_seconds.labels("resume").observe(time.perf_counter() - started)

    def _opened(self, order: Order) -> State:
        copy, runner = order.copy, self.tiers.runner
        if not self._make_room(copy):
            raise self._no_room()
        state = self._rebuilt(order)
        if state is None:
            state = self.tiers.take(lambda: runner.open(order.seed, order.prompt, order.index))
        self._kept[copy] = Kept(order.generation, order.prompt, state)
        self._tell(copy)
        return state

    def _rebuilt(self, order: Order) -> State | None:
        """None: of nothing, or it can't be done; the picture begins anew."""
        if not order.past:
            return None
        started = time.perf_counter()
        try:
            state = self.tiers.take(lambda: self.tiers.runner.rebuild(order.seed, order.prompt, order.past))
        except Exception:
            logger.exception("not rebuilt, beginning anew", extra={"session": order.copy.session})
            return None
        took_s = time.perf_counter() - started
        metrics.tier_seconds.labels("rebuild").observe(took_s)
        text = "rebuilt from the latents of %d chunks in %.2f s, going on with chunk %d"
        logger.info(text, len(order.past), took_s, order.index, extra={"session": order.copy.session})
        return state

    def _make_room(self, newcomer: Copy) -> bool:
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
        copies = {copy.key: copy for copy, kept in self._kept.items() if kept.hot and not self.busy(copy)}
        idle = [Resident(c.key, ended=False, paused=c.own.paused, used_at=c.used_at) for c in copies.values()]
        key = residency.first_to_leave(idle, paused_only=paused_only)
        if key is None:
            return False
        copy = copies[key]
        kept = self._kept[copy]
        if self._has_mirror(copy, kept, at_any_price=not paused_only, newcomer=newcomer):
            self._suspend(copy, kept)
        elif paused_only:
            return False
        else:
            self._lose(copy, "no room in host memory")
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
            others = [c for c, other in self._kept.items() if other.mirror and c not in {copy, newcomer}]
            hot = [other for other in others if self._kept[other].hot and not self._kept[other].coming]
            suspended = [other for other in others if not self._kept[other].hot]
            if hot:
                newest = max(hot, key=lambda c: (not c.own.paused, c.used_at, c.key))
                self.tiers.drop_mirror(self._kept[newest])
            elif suspended and at_any_price:
                self._lose(min(suspended, key=lambda c: (c.used_at, c.key)), "host memory is full")
            kept.mirror = pool.lease()
        return kept.mirror is not None

    def _suspend(self, copy: Copy, kept: Kept) -> Copying | None:
        """None: it is lost."""
        started = time.perf_counter()
        try:
            copying = self.tiers.suspend(kept)
        except Exception:
            logger.exception("not suspended", extra={"session": copy.session})
            self._lose(copy, "it could not be copied")
            return None
        metrics.tier_seconds.labels("suspend").observe(time.perf_counter() - started)
        self._tell(copy)
        return copying

    def _no_room(self) -> NoRoom:
        return NoRoom(f"all {self.tiers.slots} places are taken by chunks under way and moves")

    def _lose(self, copy: Copy, why: str) -> None:
        logger.warning("a state is lost: %s", why, extra={"session": copy.session})
        self._drop(copy)
        self.on_lost(copy)

    def _drop(self, copy: Copy) -> None:
        self.tiers.drop(self._kept.pop(copy))
        self._tell(copy)

    def _tell(self, copy: Copy) -> None:
        kept = self._kept.get(copy)
        copy.tier = NONE if kept is None else DEVICE if kept.hot else HOST


def _over(copy: Copy, generation: int) -> bool:
    return copy.gone or copy.state not in {"running", "paused"} or copy.generation != generation
