"""What belongs to the copies on the event loop: each has one task and one subscription, and they end with it.

Event loop only. A copy lives from the `Own` or the reservation that makes it to its drop (or eviction).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import nats.errors
from nats.aio.subscription import Subscription
from opentelemetry.trace import Span

from services.worker import residency
from services.worker.commit import Arrival, Line
from services.worker.copies import Copy
from services.worker.desk import Desk
from services.worker.making import Made
from shared import telemetry
from shared.bus import BusAway, Refused
from shared.contracts.fleet import Own
from shared.contracts.stream import ViewerReport
from shared.contracts.subjects import VIEWERS

_LOOK_AGAIN_S = 0.01


@dataclass(slots=True)
class _Held:
    """`line` None: the copy's state has still to arrive."""

    line: Line | None = None
    task: asyncio.Task[None] | None = None
    viewers: Subscription | None = None


@dataclass(slots=True)
class Holdings:
    """`on_empty`: the last copy of a draining worker is gone. `on_leave`: a copy is gone."""

    desk: Desk
    room: residency.Room
    on_empty: Callable[[], None]
    on_leave: Callable[[Copy], None] = lambda _: None
    draining: bool = False
    _held: dict[Copy, _Held] = field(default_factory=dict)

    async def take(self, own: Own) -> Copy:
        """A new copy, which finds its place in the log. Raises `Refused`."""
        copy, evicted = self._add(own, arriving=False)
        line = Line(self.desk, copy, _first_chunk_span(own, self.desk.worker))
        held = self._held[copy] = _Held()
        self._run(held, line)
        await self._settle_in(copy, held, evicted)
        return copy

    async def reserve(self, own: Own) -> Copy:
        """A copy whose state is to come by a move; `begin` once it has. Raises `Refused`."""
        copy, evicted = self._add(own, arriving=True)
        held = self._held[copy] = _Held()
        await self._settle_in(copy, held, evicted)
        return copy

    def begin(self, copy: Copy, arrival: Arrival) -> None:
        held = self._held.get(copy)
        if held is not None:
            self._run(held, Line(self.desk, copy, None, arrival))

    def _run(self, held: _Held, line: Line) -> None:
        held.line = line
        held.task = asyncio.create_task(line.run(), name=f"line {line.copy.session}")

    def _add(self, own: Own, *, arriving: bool) -> tuple[Copy, Copy | None]:
        """The copy with its slot, and the one that made room for it."""
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
        return roster.add(own, arriving=arriving), evicted

    async def _settle_in(self, copy: Copy, held: _Held, evicted: Copy | None) -> None:
        if evicted is not None:
            await self.let_go(evicted)
        if not copy.gone:
            await self._hear_viewers(copy, held)

    async def _hear_viewers(self, copy: Copy, held: _Held) -> None:
        own = copy.own

        def hear(report: ViewerReport, _meta: object) -> None:
            self.desk.roster.grant(copy, report.granted_through)

        try:
            held.viewers = await self.desk.bus.subscribe(
                VIEWERS, hear, cell=self.desk.cell, tenant=own.tenant, session=own.session
            )
        except nats.errors.Error as error:
            await self.let_go(copy)
            raise Refused("log_away", f"can't listen for viewers: {error}", "repeat the command") from None
        if copy.gone:
            await unsubscribe(held.viewers)

    async def located(self, copy: Copy, wait_s: float) -> None:
        """Until the chunk log has said where the session goes on. Raises `Refused`."""
        held = self._held.get(copy)
        try:
            if held is not None and held.line is not None:
                async with asyncio.timeout(wait_s):
                    await held.line.located.wait()
        except TimeoutError:
            await self.let_go(copy)
            raise Refused("log_away", "the chunk log did not answer in time", "repeat the command") from None

    async def is_newest(self, copy: Copy) -> bool:
        """Whether a copy can go on under a new epoch: it made what the log has last, or came by a move and
        nothing was made since. Else it begins anew.
        """
        if copy.ended or not copy.located:
            return False
        try:
            last = await self.desk.log.last(copy.own.tenant, copy.session)
        except BusAway as error:
            raise Refused("log_away", str(error), "repeat the command") from None
        if last is None:
            return True
        if copy.move_id:
            return last.chunk.index < copy.next_append
        return last.chunk.worker == self.desk.worker and last.chunk.index < copy.next_chunk

    async def appended(self, copy: Copy, wait_s: float) -> None:
        """Until all that the copy made is in the log, or `wait_s` are over."""
        until = time.monotonic() + wait_s
        while _owes_chunks(copy) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def let_go(self, copy: Copy) -> None:
        """The copy's end, here and on the device. Idempotent."""
        self.desk.roster.remove(copy)
        held = self._held.pop(copy, None)
        if held is None:
            return
        self.on_leave(copy)
        if held.task is not None:
            held.task.cancel()
            await asyncio.wait([held.task], timeout=1.0)
        if held.viewers is not None:
            await unsubscribe(held.viewers)
        self.end_drain_if_empty()

    def end_drain_if_empty(self) -> None:
        if self.draining and not len(self.desk.roster):
            self.on_empty()

    def deliver(self, made: Made) -> None:
        held = self._held.get(made.order.copy)
        if held is None or held.line is None:
            made.span.end()
        else:
            held.line.put(made)

    def seek(self, copy: Copy) -> None:
        """Its state is lost."""
        held = self._held.get(copy)
        if held is not None and held.line is not None:
            held.line.seeker.seek()

    async def idle(self) -> None:
        """Until everything made so far is in the log. Waits for ever while NATS is away: give it a
        deadline.
        """
        while any(_owes_chunks(copy) for copy in self._held):
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def close(self) -> None:
        for copy in list(self._held):
            await self.let_go(copy)


def _owes_chunks(copy: Copy) -> bool:
    return copy.next_append < copy.next_chunk and not copy.ended and not copy.gone


def _first_chunk_span(own: Own, worker: str) -> Span | None:
    """From the `Own` of an opening to its first append, in the session's trace."""
    if not own.traceparent:
        return None
    context = telemetry.extract({"traceparent": own.traceparent})
    return telemetry.tracer.start_span(
        "worker.first_chunk", context=context, attributes={"session": own.session, "worker": worker}
    )


async def unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(Exception):
        await subscription.unsubscribe()
