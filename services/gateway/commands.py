"""Placement as the gateway asks it: each call is one request on the bus.

Raises `Refused`, `NoAnswer` or `BusAway`, and `Problem` for what can't be a session's id.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from services.gateway.problems import Problem, autoscaler_away, session_not_found
from shared.bus import Bus, NoAnswer
from shared.contracts import session, subjects
from shared.contracts.fleet import DrainWorker, FleetPlan, SetFleet, WorkerDrained
from shared.contracts.moves import MoveSession, SessionMoved, SessionStowed, StowSession
from shared.contracts.subjects import Request
from shared.ids import InvalidName, cell_of, check_session_id

_DRAIN_TIMEOUT_S = 30.0  # every session of the worker is saved and told anew
_MOVE_TIMEOUT_S = 20.0  # placement gives a move up after ten
_STOW_TIMEOUT_S = 15.0

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class Placement:
    """The sessions of one tenant in one cell."""

    def __init__(self, bus: Bus, cell: str, tenant: str, timeout_s: float) -> None:
        self._bus = bus
        self._cell = cell
        self._tenant = tenant
        self._timeout_s = timeout_s

    async def open(self, opening: session.OpenSession) -> session.SessionView:
        return await self._ask(subjects.OPEN, opening)

    async def page(self, asked: session.ListSessions) -> session.SessionPage:
        return await self._ask(subjects.LIST, asked)

    async def get(self, session_id: str) -> session.SessionView:
        return await self._ask(subjects.GET, session.GetSession(self._known(session_id)))

    async def steer(self, session_id: str, inputs: list[session.Input]) -> session.Steered:
        return await self._ask(subjects.STEER, session.SteerSession(self._known(session_id), inputs))

    async def pause(self, session_id: str) -> session.SessionView:
        return await self._ask(subjects.PAUSE, session.PauseSession(self._known(session_id)))

    async def resume(self, session_id: str) -> session.SessionView:
        return await self._ask(subjects.RESUME, session.ResumeSession(self._known(session_id)))

    async def close(self, session_id: str) -> session.SessionView:
        return await self._ask(subjects.CLOSE, session.CloseSession(self._known(session_id)))

    async def set_rung(self, session_id: str, rung: str) -> session.SessionView:
        return await self._ask(subjects.SET_RUNG, session.SetRung(self._known(session_id), rung))

    async def drain(self, worker: str, *, force: bool) -> WorkerDrained:
        return await self._operate(subjects.DRAIN_WORKER, DrainWorker(worker, force), _DRAIN_TIMEOUT_S)

    async def set_fleet(self, asked: SetFleet) -> FleetPlan:
        """The autoscaler answers this one."""
        try:
            return await self._bus.request(subjects.SET_FLEET.at(cell=self._cell), asked, self._timeout_s)
        except NoAnswer:
            raise autoscaler_away("GET /v1/fleet shows what holds; setting it again is harmless") from None

    async def move(self, session_id: str, to: str) -> SessionMoved:
        """`to` "": the worker with most room."""
        asked = MoveSession(self._known(session_id), to)
        return await self._operate(subjects.MOVE_SESSION, asked, _MOVE_TIMEOUT_S)

    async def suspend(self, session_id: str) -> SessionStowed:
        asked = StowSession(self._known(session_id))
        return await self._operate(subjects.SUSPEND_SESSION, asked, _STOW_TIMEOUT_S)

    async def restore(self, session_id: str) -> SessionStowed:
        asked = StowSession(self._known(session_id))
        return await self._operate(subjects.RESUME_SESSION, asked, _STOW_TIMEOUT_S)

    def _known(self, session_id: str) -> str:
        """What can't be an id here needs no question to placement."""
        try:
            check_session_id(session_id)
        except InvalidName:
            raise session_not_found(session_id) from None
        if cell_of(session_id) != self._cell:
            raise session_not_found(session_id)
        return session_id

    async def _ask(self, subject: Request[T, R], message: T) -> R:
        address = subject.at(cell=self._cell, tenant=self._tenant)
        return await self._bus.request(address, message, self._timeout_s)

    async def _operate(self, subject: Request[T, R], message: T, timeout_s: float) -> R:
        """An operator's call, which may take a while; without an answer nobody knows how far it came."""
        try:
            return await self._bus.request(subject.at(cell=self._cell), message, timeout_s)
        except NoAnswer:
            raise Problem(
                503,
                "placement_away",
                "the placement service doesn't answer",
                "look how things stand before trying again: GET /v1/sessions and /v1/workers",
            ) from None
