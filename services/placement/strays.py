"""Copies that rows don't account for: taken in, called off, or dropped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from services.placement import hand_over, notice
from services.placement.facts import HandedOver
from services.placement.hand_over import CallOff
from services.placement.live import Live
from shared.contracts.fleet import CopyReport, Drop, LoadReport

if TYPE_CHECKING:
    from services.placement.service import Placement

_SAY_AGAIN_S = 2.0


class Strays:
    """Part of every round of `Reconciler`."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._said_at: dict[tuple[str, str, int], float] = {}

    def any_in(self, report: LoadReport) -> bool:
        """Whether a copy is of an ownership that its row doesn't know."""
        live = self._placement.sessions.live
        known = ((copy, live[copy.session].row) for copy in report.copies if copy.session in live)
        return any(copy.epoch > row.epoch for copy, row in known)

    async def take_in(self) -> None:
        """Copies of moves that this process knows nothing of, or has given up."""
        placement, now = self._placement, time.monotonic()
        for worker, copy in list(placement.fleet.copies(now)):
            live = placement.sessions.live.get(copy.session)
            known = live is not None and copy.epoch <= live.row.epoch and not copy.move_id
            if live is not None and not known and not live.lock.locked():
                await self._take_in(live, worker, copy, now)

    async def _take_in(self, live: Live, worker: str, copy: CopyReport, now: float) -> None:
        placement = self._placement
        report = placement.fleet.alive_report(worker, now)
        if report is None:
            return
        move = live.move.move if live.move is not None else None
        found = hand_over.of_stray(live.row, worker, report.incarnation, copy, move)
        if isinstance(found, HandedOver):
            await placement.happen(live, found)
        elif isinstance(found, CallOff) and self._due((worker, copy.move_id, 0), now):
            await placement.voice.call_off(worker, copy.move_id, found.why)

    def drop_unneeded(self, now: float, *, settled: bool) -> None:
        """Copies nobody should hold: of an earlier owner once the present one has proved itself, all others
        once everything else is `settled`. Not while another placement may lead: it may know of sessions made
        since.
        """
        self._said_at = {key: at for key, at in self._said_at.items() if now - at < _SAY_AGAIN_S}
        if not self._placement.leadership.certain:
            return
        for worker, copy in self._placement.fleet.copies(now):
            drop = self._unneeded(worker, copy, now, settled=settled)
            if drop is not None and self._due((worker, copy.session, copy.epoch), now):
                self._placement.voice.drop(worker, drop)

    def _unneeded(self, worker: str, copy: CopyReport, now: float, *, settled: bool) -> Drop | None:
        sessions = self._placement.sessions
        live = sessions.live.get(copy.session)
        if live is None:
            known = settled and not sessions.may_exist(copy.session)
            return notice.unneeded(None, worker, copy, {}, moving=False) if known else None
        if live.row.worker == worker or not (settled or live.row.worker):
            return None
        others = self._placement.fleet.holders(copy.session, now)
        return notice.unneeded(live.row, worker, copy, others, moving=live.move is not None)

    def _due(self, command: tuple[str, str, int], now: float) -> bool:
        """Whether it is time to say it (again)."""
        return self._said_at.setdefault(command, now) == now
