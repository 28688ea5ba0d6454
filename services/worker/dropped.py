"""Which ownerships placement has had this worker forget: a late or repeated `Own` of one revives nothing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_MOST_SESSIONS = 4096


@dataclass(frozen=True, slots=True)
class DroppedEpochs:
    """The highest epoch by session; the session longest unmentioned is forgotten first."""

    _through: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def note(self, session: str, epoch: int) -> None:
        self._through[session] = max(epoch, self.through(session))
        self._through.move_to_end(session)
        while len(self._through) > _MOST_SESSIONS:
            self._through.popitem(last=False)

    def through(self, session: str) -> int:
        """0: it was never told to drop the session."""
        return self._through.get(session, 0)
