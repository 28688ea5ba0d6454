"""From encoded chunks to the log: one line per session, in order, each append a compare-and-set.

An append is tried for as long as this worker holds the copy. When the log refuses, `fence` says what that
means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from opentelemetry import trace
from opentelemetry.trace import Span

from services.worker import fence, metrics
from services.worker.copies import FAILED, SUPERSEDED, Copy
from services.worker.desk import Desk
from services.worker.making import Made
from services.worker.seeking import Seeker
from shared.chunk_log import ChunkTooLarge, Entry, LogConflict
from shared.contracts.session import CREDIT_WINDOW
from shared.contracts.stream import Chunk, ChunkReady
from shared.contracts.subjects import CHUNK_READY

logger = logging.getLogger(__name__)

_FOLLOW_AGAIN_S = 0.005
_MAX_CONFLICTS = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a copy came by a move. `unappended`: so many chunks that its source made were not in the log yet;
    they are waited for, `wait_s` at most. `on_first`: called once, whether its first chunk came into the log,
    or why it can't any more.
    """

    unappended: int
    wait_s: float
    on_first: Callable[[bool, str], None]


@dataclass(eq=False, slots=True)
class Line:
    """One copy's way to the log: `run` is its task, `put` takes what the engine made. Event loop only."""

    desk: Desk
    copy: Copy
    first_span: Span | None
    arrival: Arrival | None = None
    located: asyncio.Event = field(default_factory=asyncio.Event)
    seeker: Seeker = field(init=False)
    _after: int = 0
    _made: asyncio.Queue[Made] = field(default_factory=lambda: asyncio.Queue(CREDIT_WINDOW))

    def __post_init__(self) -> None:
        self.seeker = Seeker(self.desk, self.copy)

    def put(self, made: Made) -> None:
        """Planning lets no more chunks be under way than the queue holds."""
        if made.order.stale:
            made.span.end()
        else:
            self._made.put_nowait(made)

    async def run(self) -> None:
        """Until cancelled: find the session's place in the log, then append."""
        try:
            if self.arrival is None:
                await self._locate()
            else:
                await self._follow(self.arrival)
            while not self.copy.ended:
                made = await self._made.get()
                with trace.use_span(made.span, end_on_exit=True):
                    await self._commit(made)
        except Exception as error:
            logger.exception("appending failed", extra={"session": self.copy.session})
            self.desk.roster.end(self.copy, FAILED, f"{type(error).__name__}: {error}")
        finally:
            self.located.set()  # nobody may wait for what will not come
            self.close()
            self.seeker.cancel()

    def close(self) -> None:
        if self.first_span is not None:
            self.first_span.end()
            self.first_span = None

    async def _locate(self) -> None:
        copy = self.copy
        last = await self._last()
        if last is not None and last.chunk.epoch > copy.own.epoch:
            self._superseded(last.chunk.worker, last.chunk.epoch)
        else:
            self._after = last.sequence if last else 0
            self._go_on_at(last.chunk.index + 1 if last else copy.own.start_chunk)
        self.located.set()

    async def _last(self) -> Entry | None:
        own = self.copy.own
        return await self.desk.insist(own.session, lambda: self.desk.log.last(own.tenant, own.session))

    async def _follow(self, arrival: Arrival) -> None:
        """Find the place behind what the copy's source made: before that is there nothing may be appended."""
        copy, until = self.copy, time.monotonic() + arrival.wait_s
        self.located.set()
        while not copy.ended:
            last = await self._last()
            newest = (last.chunk, last.sequence) if last else (None, 0)
            match fence.follow(copy.next_append, copy.own.epoch, arrival.unappended, *newest):
                case fence.AppendAfter(sequence):
                    self._after = sequence
                    return
                case fence.Superseded():
                    self._lose("the source went on")
                case fence.Early() if time.monotonic() > until:
                    self._lose(f"chunk {copy.next_append - 1} of the source's never came into the log")
            await asyncio.sleep(_FOLLOW_AGAIN_S)

    def _lose(self, why: str) -> None:
        """A copy that came by a move didn't become the owner's: it never begins anew."""
        self.desk.roster.end(self.copy, SUPERSEDED)
        if self.arrival is not None:
            self.arrival.on_first(False, why)

    def _go_on_at(self, next_chunk: int) -> None:
        self.desk.roster.locate(self.copy, next_chunk, seek=self.desk.cold is not None)
        self.seeker.seek()

    async def _commit(self, made: Made) -> None:
        if made.order.stale:
            return
        started = time.perf_counter()
        desk, span = self.desk, self.first_span or made.span
        chunk = made.chunk(self.copy.own, desk.spec, desk.worker, span)
        try:
            sequence = await self._append(chunk)
        except ChunkTooLarge as error:
            self.desk.roster.end(self.copy, FAILED, str(error))
            return
        if sequence is not None:
            metrics.stage_seconds.labels("append").observe(time.perf_counter() - started)
            await self._appended(made, sequence)

    async def _append(self, chunk: Chunk) -> int | None:
        """The chunk's sequence; None if the log must not have it: the copy has ended or begins anew."""
        for _ in range(_MAX_CONFLICTS):
            match await self.desk.insist(self.copy.session, lambda: self._try_append(chunk)):
                case fence.Appended(sequence):
                    return sequence
                case fence.AppendAfter(sequence):
                    self._after = sequence
                case fence.Superseded() | fence.StartAgain() if self.copy.move_id:
                    self._lose("the source went on")
                    return None
                case fence.Superseded(worker, epoch):
                    self._superseded(worker, epoch)
                    return None
                case fence.StartAgain(next_chunk, sequence):
                    self._start_again(next_chunk, sequence)
                    return None
        text = f"the chunk log refused chunk {chunk.index} {_MAX_CONFLICTS} times"
        self.desk.roster.end(self.copy, FAILED, text)
        return None

    async def _try_append(self, chunk: Chunk) -> fence.Verdict:
        own = self.copy.own
        chunk = msgspec.structs.replace(chunk, epoch=own.epoch)
        try:
            return fence.Appended(await self.desk.log.append(own.tenant, chunk, self._after))
        except LogConflict:
            last = await self.desk.log.last(own.tenant, own.session)
            return fence.judge(chunk, last.chunk if last else None, last.sequence if last else 0)

    def _superseded(self, worker: str, epoch: int) -> None:
        logger.info("superseded by %s at epoch %d", worker, epoch, extra={"session": self.copy.session})
        self.desk.roster.end(self.copy, SUPERSEDED)

    def _start_again(self, next_chunk: int, sequence: int) -> None:
        logger.warning(
            "the log went on, beginning anew at chunk %d", next_chunk, extra={"session": self.copy.session}
        )
        self._after = sequence
        while not self._made.empty():
            self._made.get_nowait().span.end()
        self._go_on_at(next_chunk)

    async def _appended(self, made: Made, sequence: int) -> None:
        order = made.order
        self._after = sequence
        self.desk.roster.appended(order)
        self.seeker.keep(made)
        self.seeker.seek()
        metrics.chunks_made.inc()
        if time.monotonic() > order.needed_at and order.index > 0:
            metrics.late_appends.inc()
        self.close()
        own = self.copy.own
        address = CHUNK_READY.at(cell=self.desk.cell, tenant=own.tenant, session=own.session)
        await self.desk.bus.publish(address, ChunkReady(order.index, sequence, own.epoch))
        if self.arrival is not None and self.copy.move_id:
            self.desk.roster.transit.prove(self.copy)
            self.arrival.on_first(True, "")
