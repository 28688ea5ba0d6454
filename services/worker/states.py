"""The model's states of the copies held: hot on the device, or suspended in host memory. Device thread
only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from services.worker import metrics, residency
from services.worker.copies import Copy, Order
from services.worker.models.protocol import State
from services.worker.offload import HostPool, Stored
from services.worker.residency import Resident
from services.worker.runner import Runner

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Hot:
    """The state of a copy, and which generation and prompt it stands for."""

    generation: int
    prompt: str
    state: State


@dataclass(slots=True)
class _Suspended:
    generation: int
    prompt: str
    stored: Stored


@dataclass(slots=True)
class States:
    """At most `slots` of them are hot. `pinned`, where asked for: copies with a chunk under way, which stay.

    A copy without a state here (new, or lost) gets one at its next chunk: rebuilt, where its order says of
    what, else a fresh one. `on_lost`: a state found no room in host memory.
    """

    runner: Runner
    pool: HostPool
    slots: int
    on_lost: Callable[[Copy], None] = lambda _: None
    _hot: dict[Copy, _Hot] = field(default_factory=dict)
    _suspended: dict[Copy, _Suspended] = field(default_factory=dict)

    def of(self, order: Order, pinned: Collection[Copy]) -> State:
        """For a chunk that begins. The caller has fewer than `slots` other chunks under way."""
        hot = self._hot.get(order.copy)
        if hot is None:
            while len(self._hot) >= self.slots and self._let_one_go(pinned, paused_only=False):
                pass
            hot = self._hot[order.copy] = self._resume(order.copy) or self._open(order)
        if hot.prompt != order.prompt:
            self.runner.set_prompt(hot.state, order.prompt)
            hot.prompt = order.prompt
        return hot.state

    def make_ready(self, pinned: Collection[Copy]) -> None:
        """One slot free ahead of need, if a paused copy holds it."""
        if len(self._hot) >= self.slots and self.pool.free_slots:
            self._let_one_go(pinned, paused_only=True)

    def forget(self) -> None:
        """Free what belongs to copies that were dropped, are over, or begin anew."""
        for copy, hot in list(self._hot.items()):
            if _over(copy, hot.generation):
                del self._hot[copy]
        for copy, suspended in list(self._suspended.items()):
            if _over(copy, suspended.generation):
                self.pool.free(self._suspended.pop(copy).stored)
        metrics.states_held.labels("hot").set(len(self._hot))
        metrics.states_held.labels("suspended").set(len(self._suspended))

    def _let_one_go(self, pinned: Collection[Copy], *, paused_only: bool) -> bool:
        copies = {copy.key: copy for copy in self._hot if copy not in pinned}
        idle = [Resident(c.key, ended=False, paused=c.own.paused, used_at=c.used_at) for c in copies.values()]
        key = residency.first_to_leave(idle, paused_only=paused_only)
        if key is not None:
            self._suspend(copies[key])
        return key is not None

    def _suspend(self, copy: Copy) -> None:
        started = time.perf_counter()
        hot = self._hot.pop(copy)
        stored = self._stored(hot, copy.session)
        if stored is None:
            self.on_lost(copy)
            return
        self._suspended[copy] = _Suspended(hot.generation, hot.prompt, stored)
        metrics.tier_seconds.labels("suspend").observe(time.perf_counter() - started)

    def _stored(self, hot: _Hot, session: str) -> Stored | None:
        """None: the state is lost."""
        try:
            stored = self.pool.store(self.runner.export(hot.state))
        except Exception:
            logger.exception("not suspended", extra={"session": session})
            return None
        if stored is None:
            logger.warning("not suspended: no room in host memory", extra={"session": session})
        return stored

    def _resume(self, copy: Copy) -> _Hot | None:
        suspended = self._suspended.pop(copy, None)
        if suspended is None:
            return None
        started = time.perf_counter()
        try:
            state = self.runner.restore(self.pool.load(suspended.stored))
        finally:
            self.pool.free(suspended.stored)
        metrics.tier_seconds.labels("resume").observe(time.perf_counter() - started)
        return _Hot(suspended.generation, suspended.prompt, state)

    def _open(self, order: Order) -> _Hot:
        state = self._rebuild(order)
        if state is None:
            state = self.runner.open(order.seed, order.prompt, order.index)
        return _Hot(order.generation, order.prompt, state)

    def _rebuild(self, order: Order) -> State | None:
        """None: of nothing, or it can't be done; the picture begins anew."""
        if not order.past:
            return None
        started = time.perf_counter()
        try:
            state = self.runner.rebuild(order.seed, order.prompt, order.past)
        except Exception:
            logger.exception("not rebuilt, beginning anew", extra={"session": order.copy.session})
            return None
        took_s = time.perf_counter() - started
        metrics.tier_seconds.labels("rebuild").observe(took_s)
        text = "rebuilt from the latents of %d chunks in %.2f s, going on with chunk %d"
        logger.info(text, len(order.past), took_s, order.index, extra={"session": order.copy.session})
        return state


def _over(copy: Copy, generation: int) -> bool:
    return copy.gone or copy.state not in {"running", "paused"} or copy.generation != generation
