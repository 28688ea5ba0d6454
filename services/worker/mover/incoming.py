"""A session's move to this worker, driven on the event loop: facts in, `moving.target` decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from services.worker import expecting
from services.worker.commit import Arrival
from services.worker.copies import Copy
from services.worker.expecting import Spell
from services.worker.mover.chores import Chores
from services.worker.mover.port import Account, Port
from services.worker.mover.receiving import Receiving
from services.worker.moving.decisions import Forget, Free, Own, Start, TargetDecision
from services.worker.moving.facts import (
    Complete,
    Dropped,
    Failed,
    FirstAppend,
    Promised,
    TargetFact,
    Tick,
    Told,
)
from services.worker.moving.patience import REST
from services.worker.moving.target import reserve, target_step
from services.worker.states import NoRoom
from services.worker.transfer.link import LinkLost, LinkRefused
from services.worker.transfer.manifest import ManifestRefused
from shared.bus import Refused
from shared.contracts.moves import HandOver, Reserve, Stage

logger = logging.getLogger(__name__)

_REST_S = 0.05  # from the announcement of the rest; it takes a few ms


class Incoming:
    """`reserved` first; then the source's stages come. `on_over`: nothing of the move is left but the copy,
    if it is this worker's now.
    """

    def __init__(self, port: Port, asked: Reserve, on_over: Callable[[], None]) -> None:
        self.move = asked.move
        self.copy: Copy | None = None
        self._port, self._asked, self._on_over = port, asked, on_over
        self._patience = port.patience("tcp")
        self._account = Account(port, asked.move)
        self._target = reserve(asked.move, self._patience, time.monotonic())
        self._receiving: Receiving | None = None
        self._prepared = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._chores = Chores(self.move.session, lambda why: self.tell(Failed(why)))
        self._loop = asyncio.get_running_loop()
        self.reserved = self._loop.create_task(self._reserve(), name=f"move {self.move.move_id}")

    @property
    def receiving(self) -> bool:
        """Until the state is here: one move at a time."""
        return self._target.phase == "reserved"

    @property
    def arriving(self) -> bool:
        """Its state isn't this worker's to go on with."""
        return self.copy is None or self.copy.arriving

    async def _reserve(self) -> None:
        """A slot for the state, and a place among the copies. Raises `Refused`."""
        port = self._port
        try:
            before = port.holdings.desk.roster.get(self.move.session)
            if before is not None:  # it has ended
                await port.holdings.let_go(before)
            self.copy = copy = await port.holdings.reserve(self._asked.own)
            memory, fence = await port.errand(lambda: self._reserve_memory(copy))
            state_bytes = self._asked.compatibility.state_bytes
            self._receiving = Receiving(port.links, self.move, state_bytes, memory, fence)
            self._follow_up()
            self._expect(state_bytes, "")
        except NoRoom as error:
            self.end("freed", str(error))
            raise Refused("no_slot", str(error), "choose another worker") from None
        except Exception as error:
            self.end("freed", str(error) or type(error).__name__)
            raise
        self._chores.begin(self._account.say("reserved"))

    def _reserve_memory(self, copy: Copy) -> tuple[Any, Callable[[], None]]:
        """On the device thread."""
        return self._port.states.reserve(copy)

    # What the source sends.

    def hear_stage(self, stage: Stage) -> None:
        """The bytes are on their way: take them. Raises `Refused`."""
        if self._receiving is None or not self.receiving or self._ending is not None:
            raise Refused("freed", f"move {self.move.move_id} is not receiving any more")
        first = not self._receiving.begun
        arriving = self._receiving.take(stage)
        if first:
            self._account.lap("link")
        self._chores.begin(self._receive(self._receiving, stage, arriving))
        if stage.stage != REST:
            self._expect(_bytes_of(stage), stage.transport)
        if stage.hand_over is not None:
            self._expect_at_once(_REST_S)
            self._chores.begin(self._prepare(stage.hand_over))
            self.tell(Promised(stage.hand_over.next_chunk))

    async def _receive(self, receiving: Receiving, stage: Stage, arriving: asyncio.Future[None]) -> None:
        began_at = time.monotonic()
        try:
            await asyncio.shield(arriving)
            await receiving.verify(stage)
        except (LinkLost, LinkRefused, ManifestRefused) as error:
            self.tell(Failed(str(error)))
            return
        if stage.stage == REST:
            self._account.lap("receive")
            self.tell(Complete())
        else:
            now, peer = time.monotonic(), self.move.source
            self._port.rates.note(peer, stage.transport, _bytes_of(stage), now - began_at, now)
            self._expect(0, stage.transport)

    def _expect(self, size_bytes: int, transport: str) -> None:
        """So much is on its way before the freeze."""
        port, now = self._port, time.monotonic()
        rate = port.rates.bytes_per_s(self.move.source, transport or port.links.names[0], now)
        step_s = port.engine.restarting.costs.step_s(self._asked.own.rung)
        if self.copy is not None:
            spell = expecting.while_it_comes(now, size_bytes / rate, step_s)
            port.holdings.desk.roster.transit.expect(self.copy, spell)

    def _expect_at_once(self, within_s: float) -> None:
        now = time.monotonic()
        if self.copy is not None:
            self._port.holdings.desk.roster.transit.expect(self.copy, Spell(now, now + within_s))

    # Facts.

    def tell(self, fact: TargetFact) -> None:
        if self._ending is not None:
            return
        before = self._target
        self._target, decisions = target_step(before, fact, time.monotonic())
        if self._target.committed and not before.committed and self.copy is not None:
            self._port.holdings.desk.roster.transit.commit(self.copy)
        for decision in decisions:
            self._carry_out(decision)
        self._follow_up()

    def hear_told(self, epoch: int) -> None:
        self.tell(Told(epoch))

    def hear_dropped(self, epoch: int) -> None:
        self.tell(Dropped(epoch))

    def lose_copy(self) -> None:
        """It was let go, and proves nothing any more."""
        self.tell(Dropped(self._target.epoch))

    def _hear_first(self, won: bool, why: str) -> None:
        self.tell(FirstAppend(won, why))

    # Decisions.

    def _carry_out(self, decision: TargetDecision) -> None:
        match decision:
            case Start() if self._prepared.is_set():
                self._arrive()
            case Start():
                self._chores.begin(self._arrive_prepared())
            case Own():
                self.end("owner", "")
            case Free(why):
                self.end("freed", why)
            case Forget():
                self.end("freed", "dropped")

    def _follow_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ending is None and (wake_at := self._target.wake_at) is not None:
            left_s = max(0.0, wake_at - time.monotonic())
            self._timer = self._loop.call_later(left_s, self.tell, Tick())

    async def _prepare(self, hand_over: HandOver) -> None:
        """While the rest of the state is on its way: all but going on with it."""
        port, copy, receiving = self._port, self.copy, self._receiving
        assert copy is not None
        assert receiving is not None
        self._land(copy, hand_over)
        try:
            await port.errand(lambda: port.engine.crossings.adopt(copy, receiving.counters, hand_over))
        except Exception as error:
            logger.exception("the state that comes can't be used", extra={"session": self.move.session})
            self.tell(Failed(why := f"the state that comes can't be used: {error}"))
            self.tell(FirstAppend(False, why))
            return
        self._prepared.set()

    def _land(self, copy: Copy, hand_over: HandOver) -> None:
        """One that is resumed here goes on at once, by what it was reserved with: its source knows no more
        than that it paused.
        """
        roster = self._port.holdings.desk.roster
        mine: dict[str, Any] = {"epoch": self._target.epoch, "move_id": self.move.move_id}
        roster.transit.land(
            copy, msgspec.structs.replace(hand_over.own, **mine), hand_over, self.move.move_id
        )
        if self._asked.own.revision > hand_over.own.revision:
            roster.apply(copy, msgspec.structs.replace(self._asked.own, **mine))

    async def _arrive_prepared(self) -> None:
        await self._prepared.wait()
        self._arrive()

    def _arrive(self) -> None:
        """The copy goes on here."""
        port, copy, receiving = self._port, self.copy, self._receiving
        assert copy is not None
        assert receiving is not None
        assert receiving.hand_over is not None
        port.holdings.desk.roster.transit.arrive(copy)
        self._account.lap("adopt")
        unappended, wait_s = receiving.hand_over.unappended, self._patience.proving_s
        port.holdings.begin(copy, Arrival(unappended, wait_s, self._hear_first))
        self._chores.begin(self._account.say("arrived", at=time.time()))
        self._chores.begin(port.let_go(copy))

    def hear_step(self) -> None:
        """On the device thread: its first here is about to begin."""
        self._loop.call_soon_threadsafe(self._account.lap, "turn")

    # The end.

    def end(self, outcome: str, why: str) -> None:
        """`outcome`: "owner" or "freed"."""
        if self._ending is None:
            if self._timer is not None:
                self._timer.cancel()
            work = self._close(outcome, why)
            self._ending = self._loop.create_task(work, name=f"end {self.move.move_id}")

    async def _close(self, outcome: str, why: str) -> None:
        if outcome == "freed":
            await self._free(why)
        await self._account.end(outcome, why)
        self._on_over()

    async def _free(self, why: str) -> None:
        """The slot is given away only once no thread writes to it any more."""
        port = self._port
        await asyncio.wait({self.reserved})  # or its place would be taken after this
        await self._chores.stop(self._patience.frozen_s)
        if self._receiving is not None:
            await self._receiving.stop()
        if self.copy is not None:
            await port.holdings.let_go(self.copy)
            await port.let_go(self.copy)
        if self._target.boundary is None:
            await port.call_off(self.move.source, self.move, why)
        logger.info("reservation freed: %s", why, extra={"session": self.move.session})

    async def closed(self) -> None:
        if self._ending is not None:
            await asyncio.wait({self._ending})


def _bytes_of(stage: Stage) -> int:
    return sum(end - start for start, end in stage.spans)
