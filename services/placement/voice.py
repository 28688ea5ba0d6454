"""What placement says: commands to workers, changes to viewers, the fleet's load to the autoscaler."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from services.placement import metrics
from services.placement.lifecycle import TellDrop, TellOwn
from services.placement.live import Live
from services.placement.sessions import Changed
from shared.bus import Bus, BusAway, NoAnswer, Refused
from shared.contracts.fleet import CheckPrompt, Drain, Drop, FleetLoad, ModelReport, Own, Owned
from shared.contracts.moves import CallOff, Move, MoveOut, Reserve, Stow, Stowed, compatibility_of
from shared.contracts.session import Refusal, SessionView
from shared.contracts.stream import SessionChanged
from shared.contracts.subjects import (
    CALL_OFF,
    CHECK_PROMPT,
    DRAIN,
    DROP,
    FLEET_LOAD,
    MOVE_OUT,
    OWN,
    RESERVE,
    SESSION_CHANGED,
    STOW,
    RequestAddress,
)
from shared.ids import InvalidName
from shared.store.rows import SessionRow

logger = logging.getLogger(__name__)

_MAX_COMMANDS_AT_ONCE = 64
_CHECK_PROMPT_TIMEOUT_S = 1.0
# A worker says these of a command that came late or at a bad moment, not of the session.
PASSING = frozenset(
    {"stale", "too_late", "log_away", "busy", "dropped", "undecodable", "moved", "freezing", "freed"}
)
# These of a session that is on its way: whoever owns it in a moment will answer.
_ON_ITS_WAY = frozenset({"busy", "moved", "freezing", "freed"})
_ASK_AGAIN_S = 0.03
_BUSY_S = 3.0


class Voice:
    """Commands are sent by tasks of their own, a bounded number at once; what doesn't fit is sent later."""

    def __init__(self, bus: Bus, cell: str, timeout_s: float) -> None:
        self._bus = bus
        self._cell = cell
        self._timeout_s = timeout_s
        self._sending: set[asyncio.Task[Any]] = set()

    async def changed(self, view: SessionView) -> None:
        address = SESSION_CHANGED.at(cell=self._cell, tenant=view.tenant, session=view.id)
        await self._bus.publish(address, SessionChanged(view))

    async def load(self, load: FleetLoad) -> None:
        await self._bus.publish(FLEET_LOAD.at(cell=self._cell), load)

    async def warnings(self, model: str, prompt: str) -> list[str]:
        """What the model doesn't know in `prompt`; nothing if no worker is there to tell."""
        try:
            address = CHECK_PROMPT.at(cell=self._cell, model=model)
            return (await self._bus.request(address, CheckPrompt(prompt), _CHECK_PROMPT_TIMEOUT_S)).warnings
        except (NoAnswer, BusAway, Refused) as error:
            logger.debug("no word on a prompt: %s", error)
            return []

    def command(self, changed: Changed) -> None:
        """Send what follows from a change, without waiting for answers."""
        for told in changed.commands:
            if isinstance(told, TellDrop):
                self.drop(told.worker, Drop(changed.row.id, told.epoch))
            elif isinstance(told, TellOwn) and changed.live is not None:
                self.own(changed.live)

    def own(self, live: Live) -> None:
        self._send(self.ask_own(live))

    def drop(self, worker: str, drop: Drop) -> None:
        self._send(self.ask_drop(worker, drop))

    def _send(self, work: Coroutine[Any, Any, Any]) -> None:
        if len(self._sending) >= _MAX_COMMANDS_AT_ONCE:
            work.close()
            return
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def ask_own(self, live: Live) -> Owned | None:
        """The owner's answer, None if it gave none in time. `reconcile` acts on refusals."""
        return (await self._try_own(live))[0]

    async def insist(self, live: Live) -> Owned | None:
        """As `ask_own`, but of a session that just moves the owner it has then is asked, in the same time."""
        deadline = time.monotonic() + self._timeout_s
        owned, refused = await self._try_own(live)
        while refused in _ON_ITS_WAY and time.monotonic() + _ASK_AGAIN_S < deadline:
            await asyncio.sleep(_ASK_AGAIN_S)
            owned, refused = await self._try_own(live)
        return owned

    async def _try_own(self, live: Live) -> tuple[Owned | None, str]:
        """The answer, and the code of a refusal."""
        row = live.known
        if not row.worker:
            return None, ""
        live.own_tries += 1
        live.own_due_at = time.monotonic() + min(5.0, 0.25 * 2**live.own_tries)
        own = make_own(row, self._timeout_s, live.move_id)
        try:
            owned = await self._bus.request(OWN.at(cell=self._cell, worker=row.worker), own, self._timeout_s)
        except Refused as refused:
            self._outcome("own", f"refused: {refused}", row.worker, row.id)
            return None, _note_refusal(live, own, refused.refusal)
        except (NoAnswer, BusAway, InvalidName) as error:
            self._outcome("own", f"no answer: {error}", row.worker, row.id)
            return None, ""
        self._outcome("own", "done", row.worker, row.id)
        live.refusals = []
        return owned, ""

    async def ask_drop(self, worker: str, drop: Drop) -> None:
        """Until the worker has answered or its time is over."""
        try:
            await self._bus.request(DROP.at(cell=self._cell, worker=worker), drop, self._timeout_s)
        except Refused as refused:
            self._outcome("drop", f"refused: {refused}", worker, drop.session)
        except (NoAnswer, BusAway, InvalidName) as error:
            self._outcome("drop", f"no answer: {error}", worker, drop.session)
        else:
            self._outcome("drop", "done", worker, drop.session)

    async def ask_reserve(self, move: Move, row: SessionRow, model: ModelReport, deadline_at: float) -> None:
        """Raises `NoAnswer`, `BusAway` or `Refused`."""
        reserve = Reserve(move, make_own(row, self._timeout_s), compatibility_of(model), deadline_at)
        await self._repeated(RESERVE.at(cell=self._cell, worker=move.target), reserve)

    async def ask_move_out(
        self, move: Move, transports: list[str], deadline_at: float, *, waited_for: bool
    ) -> None:
        """Raises `NoAnswer`, `BusAway` or `Refused`."""
        order = MoveOut(move, transports, deadline_at, waited_for)
        await self._repeated(MOVE_OUT.at(cell=self._cell, worker=move.source), order)

    async def _repeated(self, address: RequestAddress[Any, Any], message: msgspec.Struct) -> None:
        """Once more if no answer came: request or answer may have got lost. For a while, where the worker has
        still to end another move.
        """
        busy_until, unanswered = time.monotonic() + _BUSY_S, 0
        while True:
            try:
                await self._bus.request(address, message, self._timeout_s)
                return
            except NoAnswer:
                unanswered += 1
                if unanswered > 1:
                    raise
            except Refused as refused:
                if refused.refusal.code != "busy" or time.monotonic() > busy_until:
                    raise
                await asyncio.sleep(_ASK_AGAIN_S)

    async def call_off(self, worker: str, move_id: str, why: str) -> None:
        await self._bus.publish(CALL_OFF.at(cell=self._cell, worker=worker), CallOff(move_id, why))

    async def ask_stow(self, row: SessionRow, tier: str, timeout_s: float) -> Stowed:
        """Raises `NoAnswer`, `BusAway` or `Refused`."""
        stow = Stow(row.id, row.epoch, tier, time.time() + timeout_s)
        return await self._bus.request(STOW.at(cell=self._cell, worker=row.worker), stow, timeout_s)

    async def ask_drain(self, worker: str, deadline_at: float) -> int:
        """How many copies it still holds. Raises `NoAnswer`, `BusAway` or `Refused`."""
        address = DRAIN.at(cell=self._cell, worker=worker)
        return (await self._bus.request(address, Drain(deadline_at), self._timeout_s)).copies

    def _outcome(self, command: str, outcome: str, worker: str, session: str) -> None:
        metrics.commands.labels(command, outcome.partition(":")[0]).inc()
        if outcome != "done":
            logger.info("%s: %s", command, outcome, extra={"worker": worker, "session": session})

    async def close(self) -> None:
        """Let commands under way finish, within their own deadline."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=self._timeout_s)


def _note_refusal(live: Live, own: Own, refusal: Refusal) -> str:
    if refusal.code not in PASSING:
        live.refusals.append(refusal.code)
    going = live.move
    if refusal.code == "freed" and going is not None and own.move_id == going.move.move_id:
        going.free(refusal.message)
        live.stirred.set()
    return refusal.code


def make_own(row: SessionRow, timeout_s: float, move_id: str = "") -> Own:
    """`move_id`: the move by which the worker has the session, "" if by none or once that is proven."""
    return Own(
        session=row.id,
        tenant=row.tenant,
        epoch=row.epoch,
        revision=row.revision,
        model=row.model,
        seed=row.seed,
        inputs=row.inputs,
        inputs_version=row.inputs_version,
        deadline_at=time.time() + timeout_s,
        rung=row.served_rung or row.rung,
        start_chunk=row.next_chunk,
        granted_through=row.granted_through,
        paused=row.status == "paused",
        max_chunks=row.max_chunks,
        traceparent=row.traceparent,
        move_id=move_id,
    )
