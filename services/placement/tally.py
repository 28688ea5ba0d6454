"""What users do, counted: for the autoscaler's forecast, and for how long a place stays taken."""

from __future__ import annotations

import math

from msgspec import structs

from shared.contracts.fleet import SessionCounts
from shared.store.rows import SessionRow

_PRIOR_SPELLS = 4
_PRIOR_SPELL_S = 15.0
_PRIOR_MOVES = 4
_PRIOR_PAUSE_S = 0.1
_PRIOR_AWAY_S = 0.1
_MOST_AWAY = 32
"""So many of the last hand-overs count, about: links and loads change."""
_AWAY_FORGOTTEN_S = 60.0
"""What they cost beyond the prior counts less and less: who stays at home for it would never learn better."""


def wants_chunks(row: SessionRow) -> bool:
    """Whether the session is active as its users see it, with a worker or still without."""
    return row.status in ("active", "queued")


class Tally:
    """Since this process leads. An active spell ends with a pause or the session's end."""

    def __init__(self) -> None:
        self.counts = SessionCounts()
        self._spells = 0
        self._spells_s = 0.0
        self._moves = 0
        self._pauses_s = 0.0
        self._away_s = _PRIOR_AWAY_S
        self._away_at_s = 0.0
        self._handed_over = _PRIOR_MOVES

    def opened(self) -> None:
        self._count(arrived=1, arrived_active=1)

    def changed(self, before: SessionRow, after: SessionRow, lasted_s: float) -> None:
        """`lasted_s`: for how long it had had its status. One that waited for a worker had no spell yet."""
        wanted, wants = wants_chunks(before), wants_chunks(after)
        if after.ended:
            self._count(departed=1, departed_active=int(wanted))
        elif wants != wanted:
            self._count(activated=int(wants), idled=int(wanted))
        if before.status == "active" and not wants:
            self._spells += 1
            self._spells_s += lasted_s

    def moved(self, pause_s: float) -> None:
        self._moves += 1
        self._pauses_s += pause_s

    def went_away(self, took_s: float, now_s: float) -> None:
        """One was handed over to where it was resumed, or that was tried in vain."""
        self._handed_over = min(self._handed_over + 1, _MOST_AWAY)
        known_s = self.away_s(now_s)
        self._away_s, self._away_at_s = known_s + (took_s - known_s) / self._handed_over, now_s

    def away_s(self, now_s: float) -> float:
        """How much longer than at home it takes to resume a session where it is handed over to, on average
        lately.
        """
        fades = math.exp(-max(0.0, now_s - self._away_at_s) / _AWAY_FORGOTTEN_S)
        return self._away_s + max(0.0, self._away_s - _PRIOR_AWAY_S) * (fades - 1.0)

    def spell_s(self, running_s: float) -> float:
        """How long active spells last on average. `running_s`: all those that have not ended, together."""
        known_s = _PRIOR_SPELLS * _PRIOR_SPELL_S + self._spells_s + running_s
        return known_s / (_PRIOR_SPELLS + self._spells)

    @property
    def move_pause_s(self) -> float:
        """The pause that a move costs its session, on average so far."""
        return (_PRIOR_MOVES * _PRIOR_PAUSE_S + self._pauses_s) / (_PRIOR_MOVES + self._moves)

    def _count(self, **more: int) -> None:
        counted = {name: getattr(self.counts, name) + n for name, n in more.items()}
        self.counts = structs.replace(self.counts, **counted)
