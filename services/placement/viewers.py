"""Who watches, by the gateways' word: a count for each gateway, which lapses unless it is repeated."""

from __future__ import annotations

from typing import NamedTuple

from shared.contracts.session import CREDIT_WINDOW
from shared.contracts.stream import ViewerReport

EXPIRY_S = 5.0
_MAX_GATEWAYS = 64


class _Word(NamedTuple):
    viewers: int
    heard_at: float


class Viewers:
    """Of one session. Times are any steady clock's seconds. `granted_at`: when the furthest of them was done
    with a chunk, None before that was heard.
    """

    def __init__(self, granted_through: int = -1) -> None:
        self.granted_through = granted_through
        self.granted_at: float | None = None
        self._gateways: dict[str, _Word] = {}

    def report(self, report: ViewerReport, now: float) -> None:
        if (
            0 < report.granted_through - self.granted_through <= CREDIT_WINDOW
        ):  # more is no news of this moment
            self.granted_at = now
        self.granted_through = max(self.granted_through, report.granted_through)
        if report.viewers > 0 and (report.gateway in self._gateways or len(self._gateways) < _MAX_GATEWAYS):
            self._gateways[report.gateway] = _Word(report.viewers, now)
        else:
            self._gateways.pop(report.gateway, None)

    def count(self, now: float) -> int:
        self._gateways = {g: word for g, word in self._gateways.items() if now - word.heard_at <= EXPIRY_S}
        return sum(word.viewers for word in self._gateways.values())
