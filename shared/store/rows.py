"""A session's row. Apart from the tables, so that a deciding file can read and make rows without
SQLAlchemy."""

from __future__ import annotations

import msgspec

from shared.contracts.session import ENDED, Input, SessionView, Status


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session, as it is saved: what its users see (`view`), and what only placement needs.

    `worker` with `incarnation` is the owner's process, both "" while none owns it. `given_epoch`: the highest
    that anybody was ever told, at least `epoch`, since a move names its target's before it is decided.
    `next_chunk` and `granted_through` are as known when the row last changed; reports know better. `failures`
    counts copies that failed. `paused_by` is "user" or "unwatched" while paused, else "". `unwatched_since`
    None: it is watched. `request_digest` tells whether a repeated `idempotency_key` came with the same
    request. `traceparent` is the trace it was opened in, "" outside of one.
    """

    id: str
    tenant: str
    cell: str
    status: Status
    phase: str
    model: str
    seed: int
    inputs: list[Input]
    created_at: float
    updated_at: float
    revision: int = 1
    epoch: int = 0
    given_epoch: int = 0
    inputs_version: int = 1
    next_chunk: int = 0
    worker: str = ""
    incarnation: str = ""
    rung: str = ""
    reason: str = ""
    max_chunks: int | None = None
    warnings: list[str] = []
    granted_through: int = -1
    failures: int = 0
    paused_by: str = ""
    unwatched_since: float | None = None
    ended_at: float | None = None
    idempotency_key: str | None = None
    request_digest: str = ""
    traceparent: str = ""
    priority: int = 0
    served_rung: str = ""
    decision: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def view(self, position: int | None = None, expected_wait_s: float | None = None) -> SessionView:
        """What its users may see. `position`: its place in the queue from 0, None if it isn't queued."""
        seen = {name: getattr(self, name) for name in SessionView.__struct_fields__ if name in _FIELDS}
        return SessionView(**seen, position=position, expected_wait_s=expected_wait_s)


_FIELDS = frozenset(SessionRow.__struct_fields__)
