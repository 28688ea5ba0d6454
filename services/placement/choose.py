"""Which worker gets which session: the one that holds its copy, else the least loaded, oldest session
first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.contracts.fleet import CopyReport, LoadReport
from shared.store.rows import SessionRow

OVER = frozenset({"finished", "failed", "superseded"})
"""States of a copy that makes no further chunk."""
ELSEWHERE = frozenset({"draining", "no_slot"})
"""Refusals of a worker that speak of itself, not of the session."""


class Room(NamedTuple):
    """A worker that takes sessions: how many keep up there (`capacity`), and how many active ones it owns."""

    worker: str
    incarnation: str
    model: str
    rungs: tuple[str, ...]
    capacity: int
    active: int

    @property
    def free(self) -> bool:
        return self.active < self.capacity


Holders = Callable[[str], Mapping[str, CopyReport]]


def room_of(report: LoadReport, active: int) -> Room:
    """`active`: sessions it owns by placement's rows, which know more than the report."""
    capacity = min(report.capacity, report.slots) if report.state == "ready" else 0
    return Room(
        report.worker, report.incarnation, report.model.name, tuple(report.model.rungs), capacity, active
    )


def choose(row: SessionRow, rooms: Iterable[Room], copies: Mapping[str, CopyReport]) -> Room | None:
    """A worker for a queued session, None while there is no room. `copies`: those of this session, by
    worker."""
    fitting = [room for room in rooms if room.free and _serves(room, row)]
    return min(fitting, key=lambda room: _preference(room, copies.get(room.worker)), default=None)


def _serves(room: Room, row: SessionRow) -> bool:
    return room.model == row.model and (not row.rung or row.rung in room.rungs)


def _preference(room: Room, copy: CopyReport | None) -> tuple[int, float, str]:
    """Smaller is better. A worker where the session's copy failed comes last; equals are told apart by
    name."""
    held = 1 if copy is None else 2 if copy.state in OVER else 0
    return held, room.active / room.capacity, room.worker


def assign(
    queued: Sequence[SessionRow], rooms: Sequence[Room], holders: Holders
) -> list[tuple[SessionRow, Room]]:
    """As many as there is room for, oldest first; one that finds none doesn't hold up those behind it."""
    left = {room.worker: room for room in rooms}
    placed: list[tuple[SessionRow, Room]] = []
    for row in sorted(queued, key=lambda row: (row.created_at, row.id)):
        if not any(room.free for room in left.values()):
            break
        room = choose(row, left.values(), holders(row.id))
        if room is not None:
            placed.append((row, room))
            left[room.worker] = room._replace(active=room.active + 1)
    return placed
