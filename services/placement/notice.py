"""What reports, viewers and time mean for a session: the event that has happened to it, if any did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.placement.choose import ELSEWHERE
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
from shared.contracts.fleet import CopyReport
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
    if copy.state == "superseded":
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


def must_repeat(row: SessionRow, fleet: FleetView) -> bool:
    """Whether the owner, as far as it was heard, does not do what the row says: its `Own` is due again."""
    if not row.worker or not fleet.hears(row.worker, row.incarnation):
        return False
    copy = fleet.copy(row.worker, row.id)
    if copy is None:
        # A paused session's copy may have made room for others; resuming makes a new one.
        return row.status == "active"
    return (copy.epoch, copy.revision) < (row.epoch, row.revision)


def orphaned(row: SessionRow | None, worker: str, copy: CopyReport) -> bool:
    """Whether nobody needs this copy. `row` None: its session has ended, or there is none.

    A paused copy of the row's epoch stays even without an owner: the session can be resumed there. One that
    runs without an owner came from a late command, or its worker was thought dead: `choose` had its chance
    to give the session back to it.
    """
    if row is None:
        return True
    if not row.worker:
        return copy.epoch < row.epoch or copy.state != "paused"
    return copy.epoch < row.epoch and worker != row.worker
