"""A session's move away from this worker, driven on the event loop: facts in, `moving.source` decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from services.worker.copies import Copy
from services.worker.mover import readings
from services.worker.mover.cargo import Cargo, Parcel
from services.worker.mover.chores import Chores
from services.worker.mover.log_watch import LogWatch
from services.worker.mover.port import Account, Port
from services.worker.mover.readings import Reader, Reading, versions
from services.worker.mover.shipping import FAILURES
from services.worker.moving.decisions import Forget, Freeze, GoOn, Send, SourceDecision
from services.worker.moving.facts import (
    Boundary,
    Dropped,
    Failed,
    Logged,
    Sent,
    SourceFact,
    Tick,
    Told,
)
from services.worker.moving.patience import REST
from services.worker.moving.source import Source, begin, source_step
from services.worker.states import NoRoom
from services.worker.tiers import HOST
from shared.bus import Refused
from shared.contracts.moves import MoveOut

logger = logging.getLogger(__name__)

_NEARLY_S, _MOST_WAIT_S = 0.008, 0.1


class Outgoing:
    """`held` first, then `go`. `reader`: for the engine. `settled`: the copy goes on, or is gone (`outcome`).
    `sends`: there may still be something to send. `on_over`: nothing of the move is left.
    """

    def __init__(
        self, port: Port, order: MoveOut, copy: Copy, transport: str, on_over: Callable[[], None]
    ) -> None:
        self.move, self.copy = order.move, copy
        self.settled = asyncio.Event()
        self.outcome = ""
        self.sends = True
        self.reader = Reader(port.states, copy, self._hear_reading, lambda why: self.tell(Failed(why)))
        self._port, self._offered, self._on_over = port, order.transports, on_over
        self._patience = port.patience(transport)
        self._account = Account(port, order.move)
        self._source: Source | None = None
        self._cargo: Cargo | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._log = LogWatch(port.holdings.desk, copy, lambda epoch: self.tell(Logged(epoch)))
        self._ending: asyncio.Task[None] | None = None
        self._chores = Chores(self.move.session, lambda why: self.tell(Failed(why)))
        self._loop = asyncio.get_running_loop()
        port.holdings.desk.roster.transit.leave(copy, True)
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
            if copy.tier == HOST:
                await self._port.fetch(copy)
                self._account.lap("fetch")
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
        self._cargo = Cargo(self._account, copy, self._offered, held)
        self._account.lap("hold")

    def go(self) -> None:
        if self._ending is None:
            self._chores.begin(self._begin())

    async def _begin(self) -> None:
        cargo = self._cargo
        assert cargo is not None
        self._chores.begin(self._account.say("copying"))
        self._chores.begin(self._log.begin())
        try:
            await cargo.link(self._patience.copy_s)
            self._patience = self._port.patience(cargo.transport)
            self._account.lap("link")
        except FAILURES as error:
            self.tell(Failed(f"no link to {self.move.target}: {error}"))
            return
        if self._ending is None:
            self._source, decisions = begin(self.move, cargo.versions, self._patience, time.monotonic())
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

    def _hear_reading(self, reading: Reading) -> None:
        if self._ending is not None or self._cargo is None:
            return
        if self._source is not None and self._source.phase == "closing":
            self._account.lap("close")
        self._cargo.newest, parts = reading, versions(reading.parts)
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
                    pass  # the copy is frozen; that it is goes out behind the rest
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
            if (wait_s := self._wait_s()) > 0:
                self._loop.call_later(wait_s, self._follow_up)
            else:
                roster.transit.freeze(self.copy)
        self._timer = self._loop.call_later(max(0.0, source.wake_at - time.monotonic()), self._late)

    def _wait_s(self) -> float:
        """Until a freeze is of use: a chunk under way had better be stepped here than wait there."""
        if self._cargo is None or self.copy.next_chunk == self.copy.next_append:
            return 0.0
        return min(self._cargo.free_at - time.monotonic() - _NEARLY_S, _MOST_WAIT_S)

    def _send(self, stage: int, names: tuple[str, ...]) -> None:
        if stage > REST:
            self._port.holdings.desk.roster.transit.thaw(self.copy)
        assert self._cargo is not None
        self._chores.begin(self._ship(self._cargo, self._cargo.pack(stage, names)))
        if stage == REST:
            assert isinstance(self._cargo.newest, Reading)
            self._chores.begin(self._say_frozen(self._cargo.newest))

    async def _say_frozen(self, reading: Reading) -> None:
        chunk = reading.under_way
        left = f"{chunk.steps_left} of {chunk.steps} steps" if chunk is not None else "all"
        why = f"{left} of chunk {reading.next_chunk} left to {self.move.target}"
        logger.info("frozen: %s", why, extra={"session": self.move.session})
        await self._account.say("frozen", why, at=reading.at)

    async def _ship(self, cargo: Cargo, parcel: Parcel) -> None:
        assert self._source is not None
        try:
            await cargo.send(parcel, self._source.wake_at)
        except FAILURES as error:
            self.tell(Failed(str(error) or type(error).__name__))
            return
        self._account.lap("rest" if parcel.stage == REST else "copy")
        self.tell(Sent(parcel.stage))
        if parcel.stage == REST:
            # Others may need the state's place; if it stays, it may come back to one.
            await self._port.let_go(self.copy)
            self.sends = False

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
        port.holdings.desk.roster.transit.thaw(copy)
        self.settled.set()
        await self._log.end()
        await port.let_go(copy)
        port.holdings.desk.roster.transit.leave(copy, False)
        self._cargo = None
        if self.outcome == "stayed":
            logger.info("move given up: %s", why, extra={"session": self.move.session})
            await port.call_off(self.move.target, self.move, why)
        await self._account.end(self.outcome, why)
        self._on_over()

    async def closed(self) -> None:
        if self._ending is not None:
            await asyncio.wait({self._ending})
