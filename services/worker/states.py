"""The model's states of the copies held: hot on the device, or suspended in host memory. Device thread
only, so others ask by `Engine.errand`.

While a session plays, what its chunks change is copied behind them to a mirror in host memory. So little is
left to copy when it is suspended, and to resume it is one copy back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.worker import metrics
from services.worker.copies import Copy
from services.worker.errands import Later
from services.worker.models.in_pieces import InPieces
from services.worker.models.protocol import Counters, Memory, MidChunk, Part, State
from services.worker.orders import Order
from services.worker.shelf import Shelf
from services.worker.stowing import Stowed, Stowing
from services.worker.tiers import Kept, Tiers

logger = logging.getLogger(__name__)


class NoRoom(RuntimeError):
    """No place on the device can be made free: all belong to chunks under way or to moves."""


@dataclass(slots=True)
class States:
    """A copy without a state here (new, or lost) gets a fresh one at its next chunk, unless one was rebuilt
    for it before.
    """

    shelf: Shelf
    write_behind: bool = True

    @property
    def tiers(self) -> Tiers:
        return self.shelf.tiers

    # For chunks.

    def of(self, order: Order) -> State:
        """For a chunk that begins. Raises `NoRoom`."""
        copy = order.copy
        state = self._brought(copy)
        if state is None:
            state = self._opened(order)
        kept = self.shelf.kept[copy]
        kept.written = None
        if kept.shown != order.prompt:
            self.tiers.runner.set_prompt(state, order.prompt)
            kept.shown = order.prompt
        return state

    def fetch_ahead(self, copy: Copy) -> None:
        """A chunk of it may begin: if suspended, let its state come, where nobody running has to leave."""
        kept = self.shelf.kept.get(copy)
        if kept is None or kept.hot:
            return
        self.shelf.make_ready()
        if self.tiers.free:
            self.shelf.fetch(copy, kept)

    def coming(self, copy: Copy) -> bool:
        """Whether its state will be there without anybody's doing, but isn't yet."""
        kept = self.shelf.kept.get(copy)
        if kept is None:
            return False
        if not kept.hot:
            return self.tiers.leaving and not self.tiers.free
        return kept.coming is not None and not kept.coming.over

    def outdated(self, copy: Copy) -> bool:
        """Whether it begins anew, while a move still holds what it was."""
        kept = self.shelf.kept.get(copy)
        return kept is not None and kept.generation != copy.generation

    def shows_another(self, order: Order) -> bool:
        """Whether a state is here that stands for another prompt than the order's."""
        kept = self.shelf.kept.get(order.copy)
        return kept is not None and kept.shown != order.prompt

    def lacks_prompt(self, copy: Copy, prompt: str) -> bool:
        """Whether its state is at rest on the device, nobody's but its own, and stands for another prompt."""
        kept = self.shelf.kept.get(copy)
        if kept is None or kept.reserved or kept.coming is not None or self.shelf.busy(copy):
            return False
        return kept.hot and kept.generation == copy.generation and kept.shown != prompt

    def take_prompt(self, copy: Copy, prompt: str, rung: str) -> InPieces[None]:
        """Of one that lacks it."""
        kept, runner = self.shelf.kept[copy], self.tiers.runner
        kept.written = None
        runner.set_prompt(kept.state, prompt)
        kept.shown = prompt
        return runner.take_prompt(kept.state, rung)

    def prompt_taken(self, copy: Copy) -> None:
        """All of it was told the device: its mirror catches up before its next chunk is over."""
        self.copy_behind(copy)

    def claim(self, copy: Copy) -> None:
        """A place for a state that is rebuilt, until `keep`, or `unclaim` of `tiers`. Raises `NoRoom`."""
        if not self.shelf.make_room(copy):
            raise self._no_room()
        self.tiers.claim()

    def keep(self, copy: Copy, generation: int, prompt: str, state: State) -> None:
        """It is rebuilt, and in the place claimed for it."""
        self.shelf.kept[copy] = Kept(generation, prompt, state)
        self.shelf.tell(copy)

    def has_place(self, copy: Copy) -> bool:
        kept = self.shelf.kept.get(copy)
        return kept is not None and kept.hot

    def copy_behind(self, copy: Copy) -> None:
        """After a chunk's last forward and again after its decode: its mirror catches up, while the device
        goes on.
        """
        kept = self.shelf.kept.get(copy)
        if kept is None or not kept.hot:
            return
        kept.written = self.tiers.runner.told()
        self._mirror(copy, kept)

    def _mirror(self, copy: Copy, kept: Kept) -> None:
        """What its mirror lacks is copied there, if there is room for one."""
        if not self.write_behind:
            return
        try:
            kept.mirror = kept.mirror or self.tiers.pool.lease()
            if kept.mirror is not None:
                self.tiers.save(kept)
        except Exception:
            logger.exception("not copied behind", extra={"session": copy.session})
            self.tiers.drop_mirror(kept)

    def copy_ahead(self, copy: Copy) -> None:
        """A step of it was just told the device: its mirror gets what is final, as it becomes so. If it has
        none, that begins now: behind the chunk there is less to copy then.
        """
        kept = self.shelf.kept.get(copy)
        if kept is None or not self.write_behind:
            return
        if kept.mirror is None:
            self._mirror(copy, kept)
            kept.ahead = frozenset(kept.mirror.versions if kept.mirror else ())
            return
        try:
            self.tiers.save_ahead(kept)
        except Exception:
            logger.exception("not copied ahead", extra={"session": copy.session})
            self.tiers.drop_mirror(kept)

    def not_stepped(self, copy: Copy) -> None:
        """What was told to be its step failed."""
        if (kept := self.shelf.kept.get(copy)) is not None:
            self.tiers.distrust(kept)

    def pump(self) -> None:
        """Tell the device what may be copied to mirrors now."""
        if not (failed := self.tiers.pool.pump()):
            return
        for copy, kept in list(self.shelf.kept.items()):
            if kept.mirror is None or kept.mirror.slot not in failed:
                continue
            if kept.hot and kept.coming is None:
                self.tiers.drop_mirror(kept)
            else:
                self.shelf.lose(copy, "it could not be copied")

    def forget(self) -> None:
        """Free what belongs to copies that were dropped, are over, or begin anew."""
        for copy, kept in list(self.shelf.kept.items()):
            if not self.shelf.busy(copy) and _over(copy, kept.generation):
                self.shelf.drop(copy)
        self.tiers.settle()
        hot = sum(kept.hot for kept in self.shelf.kept.values())
        metrics.states_held.labels("hot").set(hot)
        metrics.states_held.labels("suspended").set(len(self.shelf.kept) - hot)
        metrics.copies_waiting_bytes.set(self.tiers.pool.waiting_bytes)

    # For moves. What is held stays where it is, whatever becomes of its copy: a link may be at its bytes.

    def hold(self, copy: Copy) -> Callable[[], None] | None:
        """Have its state on the device until `let_go`; for any thread: returns once `settled_parts` may be
        read. None: there is none. Raises `NoRoom`.
        """
        kept, runner = self.shelf.kept.get(copy), self.tiers.runner
        there = kept is not None and kept.hot and kept.coming is None and copy is not self.shelf.preparing
        if self._brought(copy) is None:
            return None
        self.shelf.held.add(copy)
        return self.fence(but_the_step=there and runner.moves_mid_chunk)

    def settled_parts(self, copy: Copy) -> Mapping[str, Part]:
        """Those that a chunk under way leaves alone; all of them, where the model doesn't tell."""
        runner, state = self.tiers.runner, self.shelf.kept[copy].state
        unsettled = runner.unsettled(state)
        return {name: part for name, part in runner.parts(state).items() if name not in unsettled}

    def let_go(self, copy: Copy) -> None:
        """Idempotent. What was reserved and not adopted is freed, and so is what belongs to a copy that is
        over. One that came is copied to its mirror now; in mid-chunk its next step comes first.
        """
        self.shelf.held.discard(copy)
        kept = self.shelf.kept.get(copy)
        if kept is None:
            return
        ends = kept.reserved or _over(copy, kept.generation)
        if ends and not self.shelf.busy(copy):
            self.shelf.drop(copy)
        elif not (ends or copy in self.shelf.under_way) and kept.hot and not (kept.mirror or kept.coming):
            self._mirror(copy, kept)

    def memory(self, copy: Copy) -> Memory:
        """Of a held copy. Another thread that wants to touch it calls a `fence` first."""
        return self.tiers.runner.memory(self.shelf.kept[copy].state)

    def parts(self, copy: Copy) -> Mapping[str, Part]:
        return self.tiers.runner.parts(self.shelf.kept[copy].state)

    def counters(self, copy: Copy) -> Counters:
        """Between two chunks only."""
        return self.tiers.runner.counters(self.shelf.kept[copy].state)

    def mid_chunk(self, copy: Copy) -> MidChunk:
        """Between two steps of its chunk under way."""
        return self.tiers.runner.mid_chunk(self.shelf.kept[copy].state)

    def shown(self, copy: Copy) -> str:
        """The prompt its state stands for."""
        return self.shelf.kept[copy].shown

    def fence(self, *, but_the_step: bool = False) -> Callable[[], None]:
        """For any thread: returns once the device has done all it was told up to now. `but_the_step`: up to
        the step that it is at.
        """
        before = self.tiers.runner.before_step if but_the_step else None
        return self.tiers.pool.fence() if before is None else before.synchronize

    def reserve(self, copy: Copy) -> tuple[Memory, Callable[[], None]]:
        """A place for the state of a copy that comes by a move, held until `let_go`; for any thread: returns
        once it may be written to. Raises `NoRoom`.
        """
        if not self.shelf.make_room(copy):
            raise self._no_room()
        state = self.tiers.take(self.tiers.runner.reserve)
        self.shelf.kept[copy] = Kept(copy.generation, state=state, reserved=True)
        self.shelf.held.add(copy)
        blank = self.tiers.runner.blank(state)
        return self.memory(copy), self.fence() if blank is None else blank.synchronize

    def adopt(self, copy: Copy, counters: Counters, shown: str) -> State:
        """What was reserved holds the state, or will before its copy is stepped: it is the copy's own, of its
        present generation, and held.
        """
        kept = self.shelf.kept[copy]
        self.tiers.runner.take_over(kept.state, counters)
        kept.generation, kept.shown, kept.reserved = copy.generation, shown, False
        self.shelf.tell(copy)
        return kept.state

    # For an operator.

    def stow(self, copy: Copy, tier: str) -> Later[Stowed]:
        """Have its state on the "device" or in "host" memory, once no chunk of it is under way."""
        return Stowing(self.shelf, copy, tier)

    # Within.

    def _brought(self, copy: Copy) -> State | None:
        """Its state, fit for use; None: there is none. Raises `NoRoom`."""
        kept = self.shelf.kept.get(copy)
        if kept is None:
            return None
        started = time.perf_counter()
        resumed = not kept.hot
        if resumed and self.shelf.take_in(copy, kept) is None:
            raise self._no_room()
        try:
            return self.tiers.usable(kept)
        except Exception:
            self.shelf.drop(copy)
            raise
        finally:
            if resumed:
                metrics.tier_seconds.labels("resume").observe(time.perf_counter() - started)

    def _opened(self, order: Order) -> State:
        copy, runner = order.copy, self.tiers.runner
        if not self.shelf.make_room(copy):
            raise self._no_room()
        state = self.tiers.take(lambda: runner.open(order.seed, order.prompt, order.index))
        self.shelf.kept[copy] = Kept(order.generation, order.prompt, state)
        self.shelf.tell(copy)
        return state

    def _no_room(self) -> NoRoom:
        return NoRoom(f"all {self.tiers.slots} places are taken by chunks under way and moves")


def _over(copy: Copy, generation: int) -> bool:
    return copy.gone or copy.state not in {"running", "paused"} or copy.generation != generation
