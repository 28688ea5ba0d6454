"""What placement says: commands to workers, changes to viewers, the fleet's load to the autoscaler."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from services.placement import metrics
from services.placement.lifecycle import TellDrop, TellOwn
from services.placement.sessions import Changed, Live
from shared.bus import Bus, BusAway, NoAnswer, Refused
from shared.contracts.fleet import CheckPrompt, Drain, Drop, FleetLoad, Own, Owned
from shared.contracts.session import SessionView
from shared.contracts.stream import SessionChanged
from shared.contracts.subjects import CHECK_PROMPT, DRAIN, DROP, FLEET_LOAD, OWN, SESSION_CHANGED
from shared.ids import InvalidName
from shared.store.rows import SessionRow

logger = logging.getLogger(__name__)

_MAX_COMMANDS_AT_ONCE = 64
_CHECK_PROMPT_TIMEOUT_S = 1.0
# A worker says these of a command that came late or at a bad moment, not of the session.
PASSING = frozenset({"stale", "too_late", "log_away", "busy", "dropped", "undecodable"})


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
                self.drop(told.worker, changed.row.id, told.epoch)
            elif isinstance(told, TellOwn) and changed.live is not None:
                self.own(changed.live)

    def own(self, live: Live) -> None:
        self._send(self.ask_own(live))

    def drop(self, worker: str, session: str, epoch: int) -> None:
        self._send(self.ask_drop(worker, session, epoch))

    def _send(self, work: Coroutine[Any, Any, Any]) -> None:
        if len(self._sending) >= _MAX_COMMANDS_AT_ONCE:
            work.close()
            return
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def ask_own(self, live: Live) -> Owned | None:
        """The owner's answer, None if it gave none in time. `reconcile` acts on refusals."""
        row = live.known
        if not row.worker:
            return None
        live.own_tries += 1
        live.own_due_at = time.monotonic() + min(5.0, 0.25 * 2**live.own_tries)
        try:
            address = OWN.at(cell=self._cell, worker=row.worker)
            owned = await self._bus.request(address, make_own(row, self._timeout_s), self._timeout_s)
        except Refused as refused:
            if refused.refusal.code not in PASSING:
                live.refusals.append(refused.refusal.code)
            self._outcome("own", f"refused: {refused}", row.worker, row.id)
        except (NoAnswer, BusAway, InvalidName) as error:
            self._outcome("own", f"no answer: {error}", row.worker, row.id)
        else:
            self._outcome("own", "done", row.worker, row.id)
            live.refusals = []
            return owned
        return None

    async def ask_drop(self, worker: str, session: str, epoch: int) -> None:
        """Until the worker has answered or its time is over."""
        drop = Drop(session, epoch)
        try:
            await self._bus.request(DROP.at(cell=self._cell, worker=worker), drop, self._timeout_s)
        except Refused as refused:
            self._outcome("drop", f"refused: {refused}", worker, drop.session)
        except (NoAnswer, BusAway, InvalidName) as error:
            self._outcome("drop", f"no answer: {error}", worker, drop.session)
        else:
            self._outcome("drop", "done", worker, drop.session)

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


def make_own(row: SessionRow, timeout_s: float) -> Own:
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
        rung=row.rung,
        start_chunk=row.next_chunk,
        granted_through=row.granted_through,
        paused=row.status == "paused",
        max_chunks=row.max_chunks,
        traceparent=row.traceparent,
    )
