"""When the two workers of a move were how far, by their own words and the one wall clock of the machine."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from shared.bus import Meta
from shared.contracts.moves import MoveNews

_TURN = "turn"
"""The target's phase from being able to go on to its first step."""


class Times(NamedTuple):
    """Of one move, in order. `stepped_at`: just before the target's first step was told its device. It is of
    the chunk under way if the session left in `mid_chunk`; else it waited for credit, too.
    """

    reserved_at: float
    copying_at: float
    frozen_at: float
    arrived_at: float
    stepped_at: float
    mid_chunk: bool


class MoveTimes:
    def __init__(self) -> None:
        self._news: dict[str, dict[str, dict[str, MoveNews]]] = defaultdict(lambda: defaultdict(dict))

    def hear(self, news: MoveNews, _: Meta) -> None:
        self._news[news.session][news.move_id][news.state] = news

    def of(self, session: str, asked_at: float) -> Times | None:
        """Of the session's first move since then. None: it came to nothing, or not all was heard."""
        for said in self._news[session].values():
            reserved = said.get("reserved")
            if reserved is not None and reserved.at >= asked_at:
                return _times(said)
        return None

    def arrival(self, session: str, since: float, until: float) -> float | None:
        """How long after `since` a target had the session's state, by a move that was reserved by `until`."""
        for said in self._news[session].values():
            reserved, arrived = said.get("reserved"), said.get("arrived")
            if reserved is not None and arrived is not None and since <= reserved.at <= until:
                return arrived.at - since
        return None


def _times(said: dict[str, MoveNews]) -> Times | None:
    states = ("reserved", "copying", "frozen", "arrived")
    owner = said.get("owner")
    turn_s = [phase.duration_s for phase in owner.phases if phase.name == _TURN] if owner else []
    if not turn_s or any(state not in said for state in states):
        return None
    reserved, copying, frozen, arrived = (said[state].at for state in states)
    mid_chunk = not said["frozen"].why.startswith("all ")
    return Times(reserved, copying, frozen, arrived, arrived + turn_s[0], mid_chunk)
