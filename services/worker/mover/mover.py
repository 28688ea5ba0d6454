"""Moves of sessions to and from this worker: serves what is asked for them, and tells each what concerns it.

The state of one session leaves and that of one arrives at a time; who asks for another is told to come back.
A few that have left wait meanwhile for their first chunk elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial

from nats.aio.subscription import Subscription

from services.worker.copies import Copy
from services.worker.dropped import DroppedEpochs
from services.worker.holdings import unsubscribe
from services.worker.making import Making
from services.worker.mover import gate
from services.worker.mover.incoming import Incoming
from services.worker.mover.outgoing import Outgoing
from services.worker.mover.port import Port
from services.worker.mover.quiet import quiet_moment
from services.worker.moving.facts import Dropped, Failed, Told
from shared.bus import Meta, Refused
from shared.contracts.fleet import Own
from shared.contracts.moves import (
    CallOff,
    LinkOpening,
    Move,
    MoveOut,
    MovingOut,
    OpenLink,
    Reserve,
    Reserved,
    Stage,
    Staged,
)
from shared.contracts.subjects import CALL_OFF, MOVE_OUT, OPEN_LINK, RESERVE, STAGE

_MOST_OVER = 64
_MOST_OUTGOING = 4
_CLOSE_S = 3.0


@dataclass(slots=True)
class Mover:
    """Event loop only, but for `on_boundary` and `on_step`."""

    port: Port
    dropped_epochs: DroppedEpochs
    _outgoing: dict[str, Outgoing] = field(default_factory=dict)
    _incoming: dict[str, Incoming] = field(default_factory=dict)
    _over: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _subscriptions: list[Subscription] = field(default_factory=list)
    _forgetting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        desk = self.port.holdings.desk
        bus, at = desk.bus, {"cell": desk.cell, "worker": desk.worker}
        self._subscriptions = [
            await bus.serve(RESERVE, self._reserve, **at),
            await bus.serve(MOVE_OUT, self._move_out, **at),
            await bus.serve(OPEN_LINK, self._open_link, **at),
            await bus.serve(STAGE, self._stage, **at),
            await bus.subscribe(CALL_OFF, self._call_off, **at),
        ]
        engine = self.port.engine
        moment = partial(quiet_moment, engine.errands, engine.planning, bus, desk.cell)
        forgetting = self.port.links.keep_forgetting_lost(moment)
        self._forgetting = asyncio.create_task(forgetting, name="lost links")

    async def close(self) -> None:
        """Give up what is under way: the other sides go on without this worker."""
        for subscription in self._subscriptions:
            await unsubscribe(subscription)
        self._subscriptions.clear()
        ending: list[Incoming | Outgoing] = [*self._outgoing.values(), *self._incoming.values()]
        for move in ending:
            move.tell(Failed("the worker stops"))
        if ending:
            await asyncio.wait([asyncio.ensure_future(m.closed()) for m in ending], timeout=_CLOSE_S)
        if self._forgetting is not None:
            self._forgetting.cancel()
        self.port.links.close()

    # What the rest of the worker says.

    def on_boundary(self, copy: Copy, chunk: Making | None) -> None:
        """On the device thread."""
        for outgoing in list(self._outgoing.values()):
            if outgoing.copy is copy:
                outgoing.reader.at_boundary(chunk)

    def on_step(self, copy: Copy) -> None:
        """On the device thread: the first of a copy that came by a move."""
        for incoming in list(self._incoming.values()):
            if incoming.copy is copy:
                incoming.hear_step()

    def on_leave(self, copy: Copy) -> None:
        """Let go for whatever reason: also to make room for another."""
        for outgoing in self._leaving(copy.session):
            if outgoing.copy is copy:
                outgoing.tell(Failed("its copy here is gone"))
        for incoming in self._about(copy.session):
            if incoming.copy is copy:
                incoming.lose_copy()

    async def heed(self, own: Own) -> None:
        """Before an `Own` is carried out. A frozen copy's waits: it may be another worker's already. Raises
        `Refused`.
        """
        for outgoing in self._leaving(own.session):
            outgoing.tell(Told(own.epoch))
            if outgoing.unsettled:
                await self._settled(outgoing, own)
        for incoming in self._about(own.session):
            incoming.hear_told(own.epoch)
            if incoming.arriving:
                await self._freed(incoming, own)

    async def _settled(self, outgoing: Outgoing, own: Own) -> None:
        try:
            async with asyncio.timeout(own.deadline_at - time.time()):
                await outgoing.settled.wait()
        except TimeoutError:
            raise Refused("moving", f"{own.session} is being moved", "repeat the command") from None
        if outgoing.outcome == "gone":
            raise Refused("moved", f"{own.session} is on {outgoing.move.target}", "tell its owner")

    async def _freed(self, incoming: Incoming, own: Own) -> None:
        """Its state isn't here: either it still comes, or the session was placed here without it."""
        if incoming.receiving:
            raise Refused("stale", f"{own.session} comes here by {incoming.move.move_id}", "wait for it")
        try:
            async with asyncio.timeout(own.deadline_at - time.time()):
                await incoming.closed()
        except TimeoutError:
            raise Refused("busy", f"{own.session} is being freed here", "repeat the command") from None

    async def dropped(self, session: str, epoch: int) -> None:
        for outgoing in self._leaving(session):
            outgoing.tell(Dropped(epoch))
            await outgoing.closed()
        for incoming in self._about(session):
            incoming.hear_dropped(epoch)
            await incoming.closed()

    def _leaving(self, session: str) -> list[Outgoing]:
        return [outgoing for outgoing in self._outgoing.values() if outgoing.move.session == session]

    def _sending(self) -> list[Outgoing]:
        return [outgoing for outgoing in self._outgoing.values() if outgoing.sends]

    def _about(self, session: str) -> list[Incoming]:
        return [incoming for incoming in self._incoming.values() if incoming.move.session == session]

    # What placement asks for.

    async def _reserve(self, asked: Reserve, _meta: Meta) -> Reserved:
        incoming = self._incoming.get(asked.move.move_id)
        if incoming is None:
            self._refuse_reservation(asked)
            incoming = Incoming(self.port, asked, lambda: self._end_incoming(asked.move.move_id))
            self._incoming[asked.move.move_id] = incoming
        await asyncio.shield(incoming.reserved)
        return Reserved()

    def _refuse_reservation(self, asked: Reserve) -> None:
        """Raises `Refused`."""
        move = asked.move
        self._refuse_old(move, asked.deadline_at)
        gate.refuse_unfit_state(self.port, asked)
        if any(incoming.receiving for incoming in self._incoming.values()):
            raise Refused("busy", "another session is arriving here", "try again in a moment")
        if any(other.move.target == move.source for other in self._sending()):
            raise Refused("busy", f"a session is leaving for {move.source}", "try again in a moment")
        gate.refuse_held(self.port, move, self.dropped_epochs.through(move.session))

    async def _move_out(self, order: MoveOut, _meta: Meta) -> MovingOut:
        outgoing = self._outgoing.get(order.move.move_id)
        if outgoing is None:
            copy, transport = self._refuse_departure(order)
            outgoing = Outgoing(self.port, order, copy, transport, lambda: self._end_outgoing(order.move))
            self._outgoing[order.move.move_id] = outgoing
            await asyncio.shield(outgoing.held)
            outgoing.go()
        await asyncio.shield(outgoing.held)
        return MovingOut()

    def _refuse_departure(self, order: MoveOut) -> tuple[Copy, str]:
        """The copy that leaves, and over what. Raises `Refused`."""
        move = order.move
        self._refuse_old(move, order.deadline_at)
        many = len(self._outgoing) >= _MOST_OUTGOING
        if many or self._sending() or self._leaving(move.session):
            raise Refused("busy", "another session is leaving", "try again in a moment")
        if any(i.receiving and i.move.source == move.target for i in self._incoming.values()):
            raise Refused("busy", f"a session is arriving from {move.target}", "try again in a moment")
        copy, transport = gate.leaving_copy(self.port, move), gate.chosen_transport(self.port, order)
        gate.refuse_slow(self.port, order, transport)
        return copy, transport

    def _refuse_old(self, move: Move, deadline_at: float) -> None:
        gate.refuse_late(deadline_at)
        if move.move_id in self._over:
            raise Refused("stale", f"move {move.move_id} is over")

    # What the other worker asks for, and either of them calls off.

    async def _open_link(self, asked: OpenLink, _meta: Meta) -> LinkOpening:
        return self.port.links.answer(asked)

    async def _stage(self, stage: Stage, _meta: Meta) -> Staged:
        incoming = self._incoming.get(stage.move_id)
        if incoming is None:
            raise Refused("freed", f"nothing is reserved for move {stage.move_id}")
        incoming.hear_stage(stage)
        return Staged(max(0.0, self.port.engine.stepper.over_at - time.monotonic()))

    def _call_off(self, call: CallOff, _meta: Meta) -> None:
        outgoing, incoming = self._outgoing.get(call.move_id), self._incoming.get(call.move_id)
        if outgoing is not None:
            outgoing.tell(Failed(call.why))
        if incoming is not None:
            incoming.tell(Failed(call.why))

    # Ends.

    def _end_outgoing(self, move: Move) -> None:
        if self._outgoing.pop(move.move_id).outcome == "gone":
            self.dropped_epochs.note(move.session, move.epoch)
        self._remember(move.move_id)

    def _end_incoming(self, move_id: str) -> None:
        self._incoming.pop(move_id, None)
        self._remember(move_id)

    def _remember(self, move_id: str) -> None:
        self._over[move_id] = None
        while len(self._over) > _MOST_OVER:
            self._over.popitem(last=False)
