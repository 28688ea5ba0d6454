"""Workers that the autoscaler empties, as long as it names them: nothing is placed there, sessions leave.

Active ones leave as the policy decides (`ticks`). Paused ones are moved too, or let go where that can't be,
and placed when they are resumed. Whoever is not named any more is as before: what left, left.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shared.contracts.fleet import CopyReport, Drop, FleetPlan

if TYPE_CHECKING:
    from services.placement.service import Placement

_SAY_AGAIN_S = 2.0


class Retiring:
    """`workers`: by name. An autoscaler that falls silent has the last word, until another one speaks."""

    def __init__(self, placement: Placement) -> None:
        self.workers: frozenset[str] = frozenset()
        self._placement = placement
        self._said_at: dict[tuple[str, str, int], float] = {}

    def hear(self, plan: FleetPlan) -> bool:
        """Whether that changes anything. Plans come in the order in which they were made."""
        before, self.workers = self.workers, frozenset(plan.draining)
        return self.workers != before

    def empty(self) -> None:
        """Begin what can be begun; to be called again and again."""
        now = time.monotonic()
        self._said_at = {key: at for key, at in self._said_at.items() if now - at < _SAY_AGAIN_S}
        if not self.workers or not self._placement.leadership.certain:
            return
        self._move_paused()
        for worker, copy in self._placement.fleet.copies(now):
            if worker in self.workers and self._let_go(copy):
                self._drop(worker, copy, now)

    def _move_paused(self) -> None:
        """One at a time from each worker, so that active ones needn't wait for all of them."""
        lives, transfers = list(self._placement.sessions.live.values()), self._placement.transfers
        waiting = self.workers - {live.row.worker for live in lives if transfers.under_way(live.row.id)}
        for live in lives:
            still = live.row.status == "paused" and live.resuming is None and not live.lock.locked()
            if still and live.row.worker in waiting and transfers.begin(live, "", ""):
                waiting -= {live.row.worker}

    def _let_go(self, copy: CopyReport) -> bool:
        """Whether it is of a paused session that nobody owns: elsewhere it would wait there to be resumed."""
        live = self._placement.sessions.live.get(copy.session)
        if live is None or live.coming_to:
            return False
        return live.row.status == "paused" and not live.row.worker

    def _drop(self, worker: str, copy: CopyReport, now: float) -> None:
        if self._said_at.setdefault((worker, copy.session, copy.epoch), now) == now:
            self._placement.voice.drop(worker, Drop(copy.session, copy.epoch))
