"""What operators ask for: draining a worker, moving a session, suspending and resuming one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from services.placement.drain import Drainer
from services.placement.live import Live
from services.placement.requests import QUEUE
from services.placement.stow import Stower
from shared.bus import Meta, Refused
from shared.contracts.fleet import DrainWorker, WorkerDrained
from shared.contracts.moves import MoveSession, SessionMoved, SessionStowed, StowSession
from shared.contracts.subjects import DRAIN_WORKER, MOVE_SESSION, RESUME_SESSION, SUSPEND_SESSION
from shared.ids import InvalidName, cell_of, check_session_id

if TYPE_CHECKING:
    from services.placement.service import Placement


class Operations:
    """Answers operators' requests, of whichever tenant a session is; each is harmless to repeat."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._drainer = Drainer(placement)
        self._stower = Stower(placement)

    async def listen(self) -> None:
        bus, at = self._placement.bus, {"cell": self._placement.settings.cell}
        await bus.serve(DRAIN_WORKER, self._drain, queue=QUEUE, **at)
        await bus.serve(MOVE_SESSION, self._move, queue=QUEUE, **at)
        await bus.serve(SUSPEND_SESSION, self._suspend, queue=QUEUE, **at)
        await bus.serve(RESUME_SESSION, self._resume, queue=QUEUE, **at)

    async def _drain(self, request: DrainWorker, _: Meta) -> WorkerDrained:
        return await self._drainer.drain(request)

    async def _move(self, request: MoveSession, _: Meta) -> SessionMoved:
        return await self._placement.mover.move(await self._find(request.session), request.to)

    async def _suspend(self, request: StowSession, _: Meta) -> SessionStowed:
        return await self._stower.suspend(await self._find(request.session))

    async def _resume(self, request: StowSession, _: Meta) -> SessionStowed:
        return await self._stower.resume(await self._find(request.session))

    async def _find(self, session: str) -> Live:
        """Raises `Refused`: there is none, or it has ended."""
        sessions = self._placement.sessions
        with contextlib.suppress(InvalidName):
            if cell_of(check_session_id(session)) == self._placement.settings.cell:
                row = await sessions.read(session)
                if row is not None and row.ended:
                    message = f"session {row.id} is {row.status} ({row.reason})"
                    raise Refused("session_ended", message, "open a new session")
                if row is not None:
                    return sessions.live.get(row.id) or sessions.adopt(row)
        hint = "list the sessions there are"
        raise Refused("session_not_found", f"there is no session {session[:60]!r}", hint)
