"""What reports, viewers and time mean for a session: the event that has happened to it, if any did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.placement.facts import (
    CopyFailed,
    CopyFinished,
    Event,
    OwnerLost,
    Unwatched,
    UnwatchedTooLong,
    Watched,
)
from services.placement.fleet_view import FleetView
from services.placement.hand_over import is_secure
from services.placement.room import ELSEWHERE, OVER
from shared.contracts.fleet import CopyReport, Drop
from shared.store.rows import SessionRow

REFUSALS_MEAN_NO = 3
"""A worker that refused so often in a row won't have the session."""


class Asked(NamedTuple):
    """How often the owner was told of the row's last change, and with which codes it refused since it last
    agreed.
    """

    times: int
    refusals: Sequence[str]


def of_owner(row: SessionRow, fleet: FleetView, now: float, connected_s: float, asked: Asked) -> Event | None:
    """What became of the owner or its copy, None if all is well. `now` and `connected_s` as `FleetView` has
    them.
    """
    if not row.worker:
        return None
    if why := fleet.why_lost(row.worker, row.incarnation, now, connected_s):
        return OwnerLost(row.epoch, why)
    copy = fleet.copy(row.worker, row.id)
    if copy is None or copy.epoch < row.epoch:
        return _of_missing_copy(row, fleet.state(row.worker), asked)
    if copy.state == "finished":
        return CopyFinished(copy.epoch, copy.next_chunk)
    if copy.state == "failed":
        return CopyFailed(copy.epoch, copy.error or "its worker could not go on")
    if copy.state == "superseded" and fleet.superseded_s(row.worker, copy, now) >= fleet.silent_s:
        # Whoever took over has as long to report as a worker may be silent: it may have the state.
        return CopyFailed(copy.epoch, "another worker wrote to its chunk log")
    return None


def _of_missing_copy(row: SessionRow, worker_state: str, asked: Asked) -> Event | None:
    """The owner has no copy: it may still be about to make one, unless it says otherwise."""
    if row.status != "active" or not asked.times:
        return None
    if worker_state == "draining":
        return OwnerLost(row.epoch, "its worker takes no further session")
    if len(asked.refusals) < REFUSALS_MEAN_NO:
        return None
    if asked.refusals[-1] in ELSEWHERE:
        return OwnerLost(row.epoch, "its worker had no room")
    return CopyFailed(row.epoch, f"its worker refused it: {asked.refusals[-1]}")


def of_viewers(
    row: SessionRow, unwatched_since: float | None, now: float, pause_s: float, close_s: float
) -> Event | None:
    """`unwatched_since` None: somebody watches. `pause_s`, `close_s`: for how long nobody may before that
    happens.
    """
    if unwatched_since is None:
        return Watched(owner_has_room=False) if row.paused_by == "unwatched" else None
    if now - unwatched_since >= close_s:
        return UnwatchedTooLong()
    if now - unwatched_since >= pause_s and row.status != "paused":
        return Unwatched(unwatched_since)
    return None


def must_repeat(row: SessionRow, fleet: FleetView, move_id: str = "") -> bool:
    """Whether the owner, as far as it was heard, does not do what the row says: its `Own` is due again.

    `move_id`: the move by which the owner has the session, as long as that is not proven.
    """
    if not row.worker or not fleet.hears(row.worker, row.incarnation):
        return False
    copy = fleet.copy(row.worker, row.id)
    if copy is None:
        # A paused session's copy may have made room for others; resuming makes a new one.
        return row.status == "active" or bool(move_id)
    unsure = bool(copy.move_id) and not copy.committed
    return unsure or (copy.epoch, copy.revision) < (row.epoch, row.revision)


def unneeded(
    row: SessionRow | None, worker: str, copy: CopyReport, others: Mapping[str, CopyReport], *, moving: bool
) -> Drop | None:
    """The command that rids a worker of a copy nobody needs. `row` None: its session has ended, or there is
    none. `others`: all copies of the session, by worker. `moving`: a move of it is under way.
    """
    if row is None:
        return Drop(copy.session, copy.epoch)
    if row.worker:
        return _beside_owner(row, worker, copy, others.get(row.worker), moving=moving)
    if copy.epoch > row.epoch or moving:
        return None
    better = any(other.epoch > copy.epoch for other in others.values() if other.state not in OVER)
    # One that runs without an owner came from a late command, or its worker was thought dead: placing had
    # its chance to give the session back to it. A paused one stays: the session can be resumed there.
    return Drop(copy.session, copy.epoch) if better or copy.state != "paused" else None


def _beside_owner(
    row: SessionRow, worker: str, copy: CopyReport, owned: CopyReport | None, *, moving: bool
) -> Drop | None:
    """An earlier owner's copy is the session's only one until the present owner's has proved itself: by a
    chunk in the log, or, where none is to be made, by having the state and knowing that it is the owner.
    """
    if worker == row.worker or copy.epoch >= row.epoch:
        return None
    drop = Drop(copy.session, copy.epoch)
    if owned is None:
        # A paused owner's copy may have made room for others, and then proves nothing.
        return drop if row.status == "paused" and copy.state != "paused" and not moving else None
    if owned.epoch < row.epoch or owned.state in ("failed", "superseded"):
        return None
    if not owned.move_id:
        return drop
    return Drop(copy.session, copy.epoch, unless_past=owned.next_chunk) if is_secure(row, owned) else None
