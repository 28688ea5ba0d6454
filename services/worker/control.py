"""What a worker is told: own, drop, drain, viewers' credit; and which prompts it can judge.

Event loop only. A copy lives from the `Own` that makes it to its `Drop` (or eviction): with it live one
subscription and one task, and end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import nats.errors
from nats.aio.subscription import Subscription
from opentelemetry.trace import Span

from services.worker import residency
from services.worker.commit import Desk, Line
from services.worker.copies import Copy
from services.worker.engine import Made
from services.worker.refusals import refuse_unfit, refuse_unusable
from services.worker.runner import Runner
from shared import telemetry
from shared.bus import BusAway, Meta, Refused
from shared.contracts.fleet import (
    CheckPrompt,
    Drain,
    Draining,
    Drop,
    Dropped,
    Own,
    Owned,
    PromptChecked,
)
from shared.contracts.stream import ViewerReport
from shared.contracts.subjects import CHECK_PROMPT, DRAIN, DROP, OWN, VIEWERS

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """What belongs to one copy on the event loop."""

    line: Line
    task: asyncio.Task[None]
    viewers: Subscription | None = None


@dataclass(slots=True)
class Control:
    """Serves this worker's subjects between `start` and `close`. `on_empty`: a drain is over."""

    desk: Desk
    runner: Runner
    room: residency.Room
    on_empty: Callable[[], None]
    on_state: Callable[[str], None]
    draining: bool = False
    _held: dict[Copy, _Held] = field(default_factory=dict)
    _subscriptions: list[Subscription] = field(default_factory=list)
    _drain_timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        bus, cell, worker = self.desk.bus, self.desk.cell, self.desk.worker
        model = self.runner.spec.name
        self._subscriptions = [
            await bus.serve(OWN, self._own, cell=cell, worker=worker),
            await bus.serve(DROP, self._drop, cell=cell, worker=worker),
            await bus.serve(DRAIN, self._drain, cell=cell, worker=worker),
            await bus.serve(CHECK_PROMPT, self._check_prompt, queue="workers", cell=cell, model=model),
        ]

    async def refuse_all(self) -> None:
        """Take no further session and no further command."""
        self.draining = True
        for subscription in self._subscriptions:
            await _unsubscribe(subscription)
        self._subscriptions.clear()

    async def close(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for copy in list(self._held):
            await self._let_go(copy)

    def deliver(self, made: Made) -> None:
        held = self._held.get(made.order.copy)
        if held is None:
            made.span.end()
        else:
            held.line.put(made)

    def seek(self, copy: Copy) -> None:
        """Its state is lost."""
        held = self._held.get(copy)
        if held is not None:
            held.line.seek()

    async def idle(self) -> None:
        """Until everything made so far is in the log. Waits for ever while NATS is away: give it a
        deadline.
        """
        while any(copy.next_append < copy.next_chunk and not copy.ended for copy in self._held):
            await asyncio.sleep(0.01)

    async def _own(self, own: Own, _meta: Meta) -> Owned:
        refuse_unfit(own, self.runner.spec, time.time())
        copy = self.desk.roster.get(own.session)
        if copy is not None and own.epoch > copy.own.epoch and not await self._is_newest(copy):
            await self._let_go(copy)
            copy = self.desk.roster.get(own.session)
        if copy is None:
            copy = await self._take(own)
        await self._located(copy, own)
        refuse_unusable(copy, own)
        return self.desk.roster.apply(copy, own)

    async def _take(self, own: Own) -> Copy:
        """A new copy with its task and its subscription. Nothing is awaited before its slot is taken."""
        if self.draining:
            raise Refused("draining", "this worker takes no further session", "choose another worker")
        roster = self.desk.roster
        admission = residency.admit(roster.residents(), self.room, own.paused)
        if not admission.admitted:
            raise Refused(
                "no_slot", f"all {self.room.hot} slots are taken by active sessions", "choose another worker"
            )
        evicted = next((c for c in roster.copies() if c.key == admission.evict), None)
        if evicted is not None:
            roster.remove(evicted)
        copy = roster.add(own)
        line = Line(self.desk, copy, _first_chunk_span(own, self.desk.worker))
        self._held[copy] = _Held(line, asyncio.create_task(line.run(), name=f"line {own.session}"))
        if evicted is not None:
            await self._let_go(evicted)
        if not copy.gone:
            await self._hear_viewers(copy, self._held[copy])
        return copy

    async def _hear_viewers(self, copy: Copy, held: _Held) -> None:
        own = copy.own

        def hear(report: ViewerReport, _meta: Meta) -> None:
            self.desk.roster.grant(copy, report.granted_through)

        try:
            held.viewers = await self.desk.bus.subscribe(
                VIEWERS, hear, cell=self.desk.cell, tenant=own.tenant, session=own.session
            )
        except nats.errors.Error as error:
            await self._let_go(copy)
            raise Refused("log_away", f"can't listen for viewers: {error}", "repeat the command") from None
        if copy.gone:
            await _unsubscribe(held.viewers)

    async def _is_newest(self, copy: Copy) -> bool:
        """Whether a copy can go on under a new epoch: it made what the log has last. Else it begins anew."""
        if copy.ended or not copy.located:
            return False
        try:
            last = await self.desk.log.last(copy.own.tenant, copy.session)
        except BusAway as error:
            raise Refused("log_away", str(error), "repeat the command") from None
        if last is None:
            return True
        return last.chunk.worker == self.desk.worker and last.chunk.index < copy.next_chunk

    async def _located(self, copy: Copy, own: Own) -> None:
        """Until the chunk log has said where the session goes on."""
        held = self._held.get(copy)
        try:
            if held is not None:
                async with asyncio.timeout(own.deadline_at - time.time()):
                    await held.line.located.wait()
        except TimeoutError:
            await self._let_go(copy)
            raise Refused("log_away", "the chunk log did not answer in time", "repeat the command") from None

    async def _drop(self, drop: Drop, _meta: Meta) -> Dropped:
        copy = self.desk.roster.get(drop.session)
        if copy is None or copy.own.epoch > drop.epoch:
            return Dropped(held=False)
        await self._let_go(copy)
        return Dropped(held=True)

    async def _let_go(self, copy: Copy) -> None:
        """The copy's end, here and on the device. Idempotent."""
        self.desk.roster.remove(copy)
        held = self._held.pop(copy, None)
        if held is None:
            return
        held.task.cancel()
        await asyncio.wait([held.task], timeout=1.0)
        if held.viewers is not None:
            await _unsubscribe(held.viewers)
        self._end_drain_if_empty()

    async def _drain(self, drain: Drain, _meta: Meta) -> Draining:
        self.draining = True
        self.on_state("draining")
        loop = asyncio.get_running_loop()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._drain_timer = loop.call_later(max(0.0, drain.deadline_at - time.time()), self.on_empty)
        self._end_drain_if_empty()
        return Draining(copies=len(self.desk.roster))

    def _end_drain_if_empty(self) -> None:
        if self.draining and not len(self.desk.roster):
            self.on_empty()

    async def _check_prompt(self, check: CheckPrompt, _meta: Meta) -> PromptChecked:
        return PromptChecked(self.runner.warnings(check.prompt))


def _first_chunk_span(own: Own, worker: str) -> Span | None:
    """From the `Own` of an opening to its first append, in the session's trace."""
    if not own.traceparent:
        return None
    context = telemetry.extract({"traceparent": own.traceparent})
    return telemetry.tracer.start_span(
        "worker.first_chunk", context=context, attributes={"session": own.session, "worker": worker}
    )


async def _unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(Exception):
        await subscription.unsubscribe()
