"""A session's move away from this worker, driven on the event loop: facts in, `moving.source` decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from services.worker.copies import Copy
from services.worker.mover import readings
from services.worker.mover.chores import Chores
from services.worker.mover.log_watch import LogWatch
from services.worker.mover.port import Account, Port
from services.worker.mover.readings import Held, Reading, versions
from services.worker.mover.shipping import FAILURES, Shipping
from services.worker.moving.decisions import Forget, Freeze, GoOn, Send, SourceDecision
from services.worker.moving.facts import (
    Boundary,
    Denoised,
    Dropped,
    Failed,
    Logged,
    Sent,
    SourceFact,
    Tick,
    Told,
)
from services.worker.moving.patience import REST, TAIL
from services.worker.moving.source import Source, begin, source_step
from services.worker.states import NoRoom, States
from services.worker.transfer.manifest import Span, merge
from shared.bus import Refused
from shared.contracts.moves import HandOver, MoveOut

logger = logging.getLogger(__name__)


class Outgoing:
    """`held` first, then `go`. `settled`: the copy goes on, or is gone (`outcome`). `on_over`: nothing of the
    move is left.
    """

    def __init__(
        self, port: Port, order: MoveOut, copy: Copy, transport: str, on_over: Callable[[], None]
    ) -> None:
        self.move, self.copy = order.move, copy
        self.settled = asyncio.Event()
        self.outcome = ""
        self._port, self._transport, self._on_over = port, transport, on_over
        self._patience = port.patience(transport)
        self._account = Account(port, order.move)
        self._source: Source | None = None
        self._generation = copy.generation
        self._shipping: Shipping | None = None
        self._newest: Held | Reading | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._log = LogWatch(port.holdings.desk, copy, lambda epoch: self.tell(Logged(epoch)))
        self._ending: asyncio.Task[None] | None = None
        self._chores = Chores(self.move.session, lambda why: self.tell(Failed(why)))
        self._loop = asyncio.get_running_loop()
        port.holdings.desk.roster.leave(copy, True)
        self.held = self._loop.create_task(self._hold(), name=f"move {self.move.move_id}")

    @property
    def frozen(self) -> bool:
        return self._source is not None and self._source.phase == "frozen"

    @property
    def unsettled(self) -> bool:
        """Commands for the copy wait: it may be another worker's already."""
        return self.frozen or (self._ending is not None and not self.settled.is_set())

    async def _hold(self) -> None:
        """Keep the state in its place. Raises `Refused` if there is none to carry."""
        states, copy = self._port.states, self.copy
        try:
            held = await self._port.errand(lambda: readings.hold(states, copy))
        except NoRoom as error:
            self.end("stayed", str(error))
            raise Refused("no_slot", f"{self.move.session} can't be made ready to leave: {error}") from None
        except Exception as error:
            self.end("stayed", str(error) or type(error).__name__)
            raise
        if held is None:
            self.end("stayed", "nothing to move")
            raise Refused("nothing_to_move", f"{self.move.session} has no state here yet", "place it anew")
        self._newest = held
        self._shipping = Shipping(self._port, self.move, self._transport, held.memory)
        self._account.lap("hold")

    def go(self) -> None:
        if self._ending is None:
            self._chores.begin(self._begin())

    async def _begin(self) -> None:
        assert self._shipping is not None
        assert self._newest is not None
        try:
            await self._account.say("copying")
            await self._log.begin()
            await self._shipping.link(self._patience.copy_s)
            self._account.lap("link")
        except FAILURES as error:
            self.tell(Failed(f"no link to {self.move.target}: {error}"))
            return
        if self._ending is None:
            parts = versions(self._newest.parts)
            self._source, decisions = begin(self.move, parts, self._patience, time.monotonic())
            self._carry_out(decisions)

    # Facts.

    def tell(self, fact: SourceFact) -> None:
        if self._ending is not None:
            return
        if self._source is None:
            self._tell_unbegun(fact)
            return
        self._source, decisions = source_step(self._source, fact, time.monotonic())
        self._carry_out(decisions)

    def _tell_unbegun(self, fact: SourceFact) -> None:
        match fact:
            case Failed(why):
                self.end("stayed", why)
            case Told(epoch) if epoch > self.move.epoch:
                self.end("stayed", "placement gave the session another epoch")
            case Dropped(epoch) if epoch >= self.move.epoch:
                self.end("gone", "dropped")

    def at_boundary(self) -> None:
        """On the device thread: the frozen copy has no chunk there."""
        self._read(readings.read)

    def at_denoised(self) -> None:
        """On the device thread: the frozen copy's chunk is decoded next."""
        self._read(readings.read_early)

    def _read(self, read: Callable[[States, Copy], Reading | None]) -> None:
        copy = self.copy
        try:
            if copy.ended or copy.gone or copy.generation != self._generation:
                self._from_device(self.tell, Failed("the copy ended, or began anew"))
            elif (reading := read(self._port.states, copy)) is not None:
                self._from_device(self._hear_reading, reading)
        except Exception as error:
            logger.exception("reading a state failed", extra={"session": self.move.session})
            self._from_device(self.tell, Failed(f"{type(error).__name__}: {error}"))

    def _from_device(self, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)

    def _hear_reading(self, reading: Reading) -> None:
        if self._ending is None and self._source is not None and self._source.phase == "closing":
            self._account.lap("close")
        self._newest, parts = reading, versions(reading.parts)
        if reading.tail:
            self.tell(Denoised(reading.next_chunk, parts, reading.tail))
        else:
            self.tell(Boundary(reading.next_chunk, parts))

    def _late(self) -> None:
        if self.frozen:
            self._chores.begin(self._look_before_giving_up())
        else:
            self.tell(Tick())

    async def _look_before_giving_up(self) -> None:
        await self._log.look()
        self.tell(Tick())

    # Decisions.

    def _carry_out(self, decisions: list[SourceDecision]) -> None:
        for decision in decisions:
            match decision:
                case Send(stage, names):
                    self._send(stage, names)
                case Freeze():
                    assert isinstance(self._newest, Reading)
                    self._chores.begin(self._account.say("frozen", at=self._newest.at))
                case GoOn(why):
                    self.end("stayed", why)
                case Forget():
                    self.end("gone", "")
        self._follow_up()

    def _follow_up(self) -> None:
        source, roster = self._source, self._port.holdings.desk.roster
        if self._timer is not None:
            self._timer.cancel()
        if self._ending is not None or source is None or source.wake_at is None:
            return
        if source.phase == "closing" and not self.copy.frozen:
            roster.freeze(self.copy)
        self._timer = self._loop.call_later(max(0.0, source.wake_at - time.monotonic()), self._late)

    def _send(self, stage: int, names: tuple[str, ...]) -> None:
        if stage > REST:
            self._port.holdings.desk.roster.thaw(self.copy)
        assert self._newest is not None
        spans = merge(span for name in names for span in self._newest.parts[name].spans)
        self._chores.begin(self._ship(stage, spans, self._newest))

    async def _ship(self, stage: int, spans: list[Span], newest: Held | Reading) -> None:
        assert self._shipping is not None
        assert self._source is not None
        began_at = time.monotonic()
        until = self._source.wake_at or began_at
        try:
            await self._sent(stage, spans, until, newest)
        except FAILURES as error:
            self.tell(Failed(str(error) or type(error).__name__))
            return
        self._note_sent(sum(end - start for start, end in spans), began_at)
        self._account.lap({REST: "rest", TAIL: "tail"}.get(stage, "copy"))
        self.tell(Sent(stage))
        if stage == TAIL or (isinstance(newest, Reading) and not newest.tail):
            # Others may need the state's place; if it stays, it may come back to one.
            await self._port.let_go(self.copy)

    async def _sent(self, stage: int, spans: list[Span], until: float, newest: Held | Reading) -> None:
        """Raises one of `FAILURES`."""
        assert self._shipping is not None
        if stage == REST:
            assert isinstance(newest, Reading)
            await self._shipping.send_rest(spans, until, newest.fence, self._hand_over(newest))
        elif stage == TAIL:
            await self._shipping.send_tail(spans, until, newest.fence)
        else:
            await self._shipping.send_ahead(stage, spans, until, newest.fence)

    def _note_sent(self, sent_bytes: int, began_at: float) -> None:
        self._account.sent_bytes += sent_bytes
        now = time.monotonic()
        self._port.rates.note(self.move.target, self._transport, sent_bytes, now - began_at, now)

    def _hand_over(self, reading: Reading) -> HandOver:
        """Commands that came before the freeze are in it; later ones wait."""
        copy = self.copy
        return HandOver(
            reading.next_chunk,
            copy.own,
            copy.inputs_from,
            reading.shown,
            reading.counters,
            copy.granted_through,
            reading.next_chunk - copy.next_append,
            reading.tail_spans,
        )

    # The end.

    def end(self, outcome: str, why: str) -> None:
        """`outcome`: "stayed" or "gone"."""
        if self._ending is None:
            self.outcome = outcome
            if self._timer is not None:
                self._timer.cancel()
            self._ending = self._loop.create_task(self._close(why), name=f"end {self.move.move_id}")

    async def _close(self, why: str) -> None:
        port, copy = self._port, self.copy
        # Before the copy goes on: what it changes may not be sent as what it was at the freeze.
        await self._chores.stop(self._patience.frozen_s)
        if self.outcome == "gone":
            await port.holdings.let_go(copy)
        port.holdings.desk.roster.thaw(copy)
        self.settled.set()
        await self._log.end()
        await port.let_go(copy)
        port.holdings.desk.roster.leave(copy, False)
        self._shipping = None
        if self.outcome == "stayed":
            logger.info("move given up: %s", why, extra={"session": self.move.session})
            await port.call_off(self.move.target, self.move, why)
        await self._account.end(self.outcome, why)
        self._on_over()

    async def closed(self) -> None:
        if self._ending is not None:
            await asyncio.wait({self._ending})
