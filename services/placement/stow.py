"""Suspending a session, its state to its worker's host memory, and bringing it back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from services.placement.facts import PausedByUser, ResumedByUser
from services.placement.live import Live
from services.placement.phases import timed
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.fleet import PhaseTime
from shared.contracts.moves import SessionStowed, Stowed

if TYPE_CHECKING:
    from services.placement.service import Placement

_STOW_WITHIN_S = 8.0
"""A chunk under way is finished first."""
_ASK_AGAIN_S = 0.05
_NO_STATE = "no_copy"
_ON_ITS_WAY = frozenset({"busy", "moved", "freezing", "freed", "stale", _NO_STATE})
"""The owner's refusals that another moment, or another owner, may answer otherwise."""


class Stower:
    """For `Operations`. Both calls answer once it is done, with the time each step took."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    async def suspend(self, live: Live) -> SessionStowed:
        """Pause it, and free its slot. Raises `Refused`."""
        phases: list[PhaseTime] = []
        with timed(phases, "pause"):
            live.resuming = None
            changed = await self._placement.sessions.change(live, lambda _: [PausedByUser()])
            await self._placement.announce(changed)
            await self._placement.voice.insist(live)
        return await self._have(live, "host", "stow", phases)

    async def resume(self, live: Live) -> SessionStowed:
        """Where its state is, if there is room; else elsewhere, where it is brought. Raises `Refused`."""
        phases: list[PhaseTime] = []
        await self._placement.ticks.resume(live, ResumedByUser, phases)
        with timed(phases, "own"):
            await self._placement.voice.insist(live)
        return await self._have(live, "device", "restore", phases)

    async def _have(self, live: Live, tier: str, name: str, phases: list[PhaseTime]) -> SessionStowed:
        """Its state in `tier`, unless nobody has it."""
        with timed(phases, name):
            stowed = await self._stow(live, tier)
        row = live.row
        told = [*phases, *(PhaseTime(f"{name} {phase.name}", phase.duration_s) for phase in stowed.phases)]
        return SessionStowed(row.id, row.status, row.worker, stowed.tier, stowed.bytes, told)

    async def _stow(self, live: Live, tier: str) -> Stowed:
        """Of whoever owns it by then. Raises `Refused`."""
        deadline = time.monotonic() + _STOW_WITHIN_S
        while live.row.worker:
            try:
                return await self._placement.voice.ask_stow(live.row, tier, deadline - time.monotonic())
            except Refused as refused:
                late = time.monotonic() + _ASK_AGAIN_S >= deadline
                if refused.refusal.code == _NO_STATE and live.row.status == "paused":
                    return Stowed("none")
                if late or refused.refusal.code not in _ON_ITS_WAY:
                    raise
            except (NoAnswer, BusAway):
                message = f"worker {live.row.worker}, which has the session, doesn't answer"
                raise Refused("worker_silent", message, "try again in a moment") from None
            await asyncio.sleep(_ASK_AGAIN_S)
        return Stowed("none")
