"""How far a move has come, by what was heard of it, and what to do next.

The two workers carry it out between themselves, and the chunk log arbitrates. Placement names the target and
its epoch, hears what became of it, and makes that the row's truth. Times are the steady clock's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from services.placement.facts import HandedBack, HandedOver, OwnerLost
from services.placement.fleet_view import FleetView
from shared.contracts.fleet import CopyReport
from shared.contracts.moves import Move, MoveNews
from shared.contracts.session import CREDIT_WINDOW
from shared.store.rows import SessionRow

MOVE_S = 8.0
_SPENT = frozenset({"failed", "superseded"})
_WAITING = frozenset({"paused", "encoding", "finished"})
_OF_SOURCE = frozenset({"copying", "frozen", "stayed", "gone"})
_OF_TARGET = frozenset({"reserved", "arrived", "owner", "freed"})


@dataclass(slots=True)
class Ongoing:
    """A move under way, in memory alone.

    `incarnation`: the target's process. `within_s`: from the proposal until the state must have arrived, more
    than the two workers' own patience together. `decision`: who wants it, "" for an operator. `home`: the
    source's process, where it has the state of a session that nobody owns, "" where it is the owner. `news`:
    the last of each state, by worker. `freed`: why the target has nothing to go on with, "" as long as it
    doesn't say so. `answered`: its operator was told that the session has moved; what is left is the target's
    first chunk.
    """

    move: Move
    incarnation: str
    since: float
    within_s: float = MOVE_S
    decision: str = ""
    home: str = ""
    news: dict[tuple[str, str], MoveNews] = field(default_factory=dict)
    freed: str = ""
    answered: bool = False

    def hear(self, news: MoveNews) -> None:
        known = _OF_SOURCE if news.worker == self.move.source else _OF_TARGET
        if news.worker in (self.move.source, self.move.target) and news.state in known:
            self.news[news.worker, news.state] = news
            if news.state == "freed":
                self.free(news.why)

    def free(self, why: str) -> None:
        self.freed = self.freed or why or "it gave the move up"

    def said(self, worker: str, *states: str) -> MoveNews | None:
        return next((self.news[worker, state] for state in states if (worker, state) in self.news), None)

    def committed(self, row: SessionRow) -> bool:
        """Whether the row says that the session is the target's."""
        return (row.worker, row.epoch) == (self.move.target, self.move.target_epoch)


class Commit(NamedTuple):
    """The target has the state: it owns the session."""


class CallOff(NamedTuple):
    why: str


class HandBack(NamedTuple):
    """The target owns the session, and has nothing to go on with."""

    why: str


class Over(NamedTuple):
    """`outcome` as in `SessionMoved`."""

    outcome: str
    why: str = ""


Decision = Commit | CallOff | HandBack | Over


def decide(
    going: Ongoing, row: SessionRow, fleet: FleetView, now: float, connected_s: float
) -> Decision | None:
    """None: wait. `row`: as it is now. `connected_s`: how long the bus has stood."""
    move = going.move
    if row.ended:
        return CallOff("the session has ended")
    if row.epoch > move.target_epoch:
        outcome = {move.source: "stayed", move.target: "placed"}.get(row.worker, "lost")
        return Over(outcome, going.freed or f"worker {move.target} could not go on with it")
    if row.epoch < move.target_epoch:
        return _before_commit(going, row, fleet, now, connected_s)
    if not row.worker:
        return Over("lost", going.freed or row.reason or f"worker {move.target} was lost")
    copy = targets_copy(move, fleet)
    if is_proven(copy) or going.said(move.target, "owner"):
        return Over("moved")
    if is_secure(row, copy) and fleet.copy(move.source, move.session) is None:
        return Over("moved")  # nobody else could make its next chunk
    return HandBack(going.freed) if going.freed else None


def _before_commit(
    going: Ongoing, row: SessionRow, fleet: FleetView, now: float, connected_s: float
) -> Decision | None:
    move, copy = going.move, targets_copy(going.move, fleet)
    if is_proven(copy) or going.said(move.target, "owner"):
        return Commit()
    if going.freed:
        return CallOff(f"worker {move.target}: {going.freed}")
    if stayed := going.said(move.source, "stayed"):
        return CallOff(f"worker {move.source}: {stayed.why}")
    if lost := fleet.why_lost(move.target, going.incarnation, now, connected_s):
        return CallOff(f"worker {move.target}: {lost}")
    if (copy is not None and copy.state not in _SPENT) or going.said(move.target, "arrived"):
        return Commit()
    if why := _why_not_its_source(going, row, fleet, now, connected_s):
        return CallOff(f"worker {move.source}{why}")
    if now - going.since > going.within_s:
        return CallOff(f"its state was not there after {going.within_s:g} s")
    return None


def _why_not_its_source(
    going: Ongoing, row: SessionRow, fleet: FleetView, now: float, connected_s: float
) -> str:
    """Why the session isn't its source's to give any more, "" if it is."""
    move = going.move
    if (row.worker, row.epoch) != ("" if going.home else move.source, move.epoch):
        return " does not own it any more"
    lost = fleet.why_lost(move.source, going.home, now, connected_s) if going.home else ""
    return f": {lost}" if lost else ""


def targets_copy(move: Move, fleet: FleetView) -> CopyReport | None:
    """Of the move's epoch, or a later one."""
    copy = fleet.copy(move.target, move.session)
    return copy if copy is not None and copy.epoch >= move.target_epoch else None


def is_proven(copy: CopyReport | None) -> bool:
    """Whether a chunk of it is in the log."""
    return copy is not None and not copy.move_id and copy.state not in _SPENT


def is_secure(row: SessionRow, copy: CopyReport | None) -> bool:
    """Whether a copy that came by a move is as good as proven: it knows that it is the owner's, and may make
    no chunk now, so that the log could tell no more of it. A chunk made by its source meanwhile still would.
    """
    return copy is not None and copy.committed and copy.state not in _SPENT and _waits(row, copy)


def _waits(row: SessionRow, copy: CopyReport) -> bool:
    out_of_credit = copy.next_chunk > copy.granted_through + CREDIT_WINDOW
    return row.status == "paused" or copy.state in _WAITING or out_of_credit


def hand_back(row: SessionRow, move: Move, fleet: FleetView, now: float, why: str) -> HandedBack | OwnerLost:
    """The target can't go on. The source can, if it lives and still has its copy."""
    source, copy = fleet.alive_report(move.source, now), fleet.copy(move.source, row.id)
    unsure = copy is None or copy.state in _SPENT or (copy.move_id and not copy.committed)
    if source is not None and not unsure:
        return HandedBack(row.epoch, source.worker, source.incarnation)
    return OwnerLost(row.epoch, f"it was moved to worker {move.target}, which could not go on: {why}")


def of_stray(
    row: SessionRow, worker: str, incarnation: str, copy: CopyReport, move: Move | None
) -> HandedOver | CallOff | None:
    """What a copy means that the row doesn't know of, perhaps of a move that another placement began.

    `move`: the one under way. A chunk in the log is stronger than what was decided.
    """
    if copy.epoch > row.epoch and is_proven(copy):
        return HandedOver(worker, incarnation, copy.epoch)
    under_way = move is not None and move.move_id == copy.move_id
    if copy.move_id and worker != row.worker and not under_way:
        return CallOff("nobody knows of this move any more")
    return None
