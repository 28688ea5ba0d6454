"""A session in memory: its row as saved, and what is known beyond it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import msgspec
from opentelemetry import context

from services.placement.carry_out import Resuming
from services.placement.hand_over import Ongoing
from services.placement.outlook import Standing
from services.placement.tally import wants_chunks
from services.placement.viewers import Viewers
from shared import telemetry
from shared.store.rows import SessionRow

_SHUNNED_S = 10.0
_BEAT_S = 5.0


class Live:
    """`move`: the one under way, with `stirred` set whenever something was heard of it. `next_chunk` comes
    from reports. `told_phase`: as viewers heard it last. `unwatched_since` None: somebody watches. `reserved`
    names the worker it is being placed on while that is saved, `coming_to` the one to which its state is
    brought, so that it may go on there. `doubtful`: a save met an absent database, so the row must be read
    before it counts. `own_tries` and `refusals` (their codes) are of the row's last
    change; `own_due_at` is on the steady clock, as is `since_s`: since when it has its status. `resuming`: it
    is paused and is to go on as soon as somebody decided where. `retry_after_s`: of a session that was
    refused.
    """

    def __init__(self, row: SessionRow, unwatched_since: float | None) -> None:
        self.row = row
        self.lock = asyncio.Lock()
        self.viewers = Viewers(row.granted_through)
        self.next_chunk = row.next_chunk
        self.told_phase = row.phase
        self.unwatched_since = unwatched_since
        self.reserved = ""
        self.coming_to = ""
        self.doubtful = False
        self.move: Ongoing | None = None
        self.stirred = asyncio.Event()
        self.own_tries = 0
        self.own_due_at = 0.0
        self.refusals: list[str] = []
        self.since_s = time.monotonic()
        self.resuming: Resuming | None = None
        self.retry_after_s: float | None = None
        self._shunned: dict[str, float] = {}
        self._dry_s: float | None = None

    @property
    def move_id(self) -> str:
        """Of the move by which the owner has the session, until that is proven."""
        return self.move.move.move_id if self.move is not None and self.move.committed(self.row) else ""

    @property
    def places(self) -> set[str]:
        """Workers on which it takes an active session's room: its owner, and both sides of a move."""
        owners = {self.reserved or (self.row.worker if self.row.status == "active" else self.coming_to)}
        if self.move is not None and self.row.status == "active":
            leaves = "" if self.move.answered or self.move.home else self.move.move.source
            owners |= {self.move.move.target, leaves}
        return owners - {""}

    @property
    def known(self) -> SessionRow:
        """The row with the newest counters."""
        return msgspec.structs.replace(
            self.row,
            next_chunk=max(self.row.next_chunk, self.next_chunk),
            granted_through=max(self.row.granted_through, self.viewers.granted_through),
        )

    def _beat_s(self, now: float) -> float | None:
        """When its viewer was done with a chunk, and so wanted the next one, or, before that is heard of one
        that has just gone on, when it will have; None if that is long ago.
        """
        granted_at = self.viewers.granted_at
        if granted_at is None or granted_at < self.since_s:
            granted_at = self._dry_s
        return granted_at if granted_at is not None and granted_at >= now - _BEAT_S else None

    def _runs_dry_s(self, now: float, chunk_s: float) -> float | None:
        """Of a paused one: when its viewer will have played what it has, if it goes on now. None: it has
        nothing, as far as is known.
        """
        granted_at, known = self.viewers.granted_at, self.known
        if granted_at is None:
            return None
        left_s = (known.next_chunk - 1 - known.granted_through) * chunk_s - max(
            0.0, self.since_s - granted_at
        )
        return now + left_s if left_s > 0.0 else None

    def shun(self, worker: str, now: float) -> None:
        """It just failed there."""
        self._shunned[worker] = now + _SHUNNED_S

    def standing(
        self,
        bound_for: str,
        stuck: bool,
        now: float,
        wall_now: float,
        *,
        anchored: bool = False,
        chunk_s: float = 1.0,
    ) -> Standing | None:
        """How it stands as far as policies are concerned, None while it wants no chunks.

        `bound_for`: the worker to which a move is to take it, which hasn't begun yet. `anchored` as
        `Standing` has it. `chunk_s`: how long one of its chunks plays.
        """
        row, going, leaving = self.row, "", ""
        if not wants_chunks(row) and self.resuming is None:
            return None
        if row.status == "active":
            move = self.move.move if self.move is not None and not self.move.answered else None
            going = bound_for or (move.target if move is not None else row.worker)
            source = move.source if move is not None else row.worker
            resumed = self.move is not None and self.move.home
            leaving = source if going != source and not resumed else ""
        else:
            going = self.reserved or self.coming_to
        if going:
            stuck = stuck or self.move is not None
            return Standing(row, self.since_s, going, leaving, stuck, beat_s=self._beat_s(now))
        if row.status == "paused":
            self._dry_s = self._runs_dry_s(now, chunk_s)
        self._shunned = {worker: until for worker, until in self._shunned.items() if until > now}
        opened_s = now - max(0.0, wall_now - row.created_at)
        beat_s = self._dry_s if self._dry_s is not None and self._dry_s >= now - _BEAT_S else None
        return Standing(row, opened_s, beat_s=beat_s, avoid=tuple(self._shunned), anchored=anchored)


@contextlib.contextmanager
def in_trace_of(live: Live) -> Iterator[None]:
    """What happens to a session by itself belongs to the trace it was opened in."""
    token = context.attach(telemetry.extract({"traceparent": live.row.traceparent}))
    try:
        yield
    finally:
        context.detach(token)
