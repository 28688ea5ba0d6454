"""A session as its users see it, and the commands that drive it.

A gateway sends these on behalf of HTTP users; any other platform may send them itself over NATS. Placement
answers.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["queued", "active", "paused", "closed", "failed"]
"""Coarse and closed: what a client may switch on. `phase` beside it is an open string that says more."""

LIVE: frozenset[Status] = frozenset({"queued", "active", "paused"})
ENDED: frozenset[Status] = frozenset({"closed", "failed"})

CREDIT_WINDOW = 2
"""Generation runs at most this many chunks ahead of the furthest viewer's `granted_through`."""

MAX_PRIORITY = 10
"""A session's priority is from -10 to this."""


class Input(msgspec.Struct, frozen=True):
    """One steering input. Today `kind` is "prompt" with `text`; keys, camera, image and audio come as new
    kinds.
    """

    kind: str
    text: str = ""


class OpenSession(msgspec.Struct, frozen=True):
    """Open a session. Repeating it with the same `idempotency_key` returns the session made the first time.

    `seed` None: placement draws one. `max_chunks` None: until closed. `rung` "": the model's default rung.
    `priority`: higher is placed before lower while not all can be, from -10 to 10.
    """

    inputs: list[Input]
    model: str = ""
    seed: int | None = None
    max_chunks: int | None = None
    rung: str = ""
    idempotency_key: str = ""
    priority: int = 0


class SessionView(msgspec.Struct, frozen=True):
    """The answer to every session command, and what viewers are told when it changes.

    `next_chunk` is advisory (the chunk log is the truth). `worker` is "" while none owns the session.
    `reason` says why a session is closed, failed or paused. `revision` grows with every change of the row.
    While queued: `position` from 0, `expected_wait_s` (None: not known). `served_rung`: the lower rung it is
    served at while demand is high, "": the one it asked for. `decision`: the id of the one that placed,
    moved, stepped or refused it last.
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
    revision: int
    epoch: int = 0
    inputs_version: int = 1
    next_chunk: int = 0
    worker: str = ""
    rung: str = ""
    reason: str = ""
    max_chunks: int | None = None
    warnings: list[str] = []
    position: int | None = None
    priority: int = 0
    expected_wait_s: float | None = None
    served_rung: str = ""
    decision: str = ""

    @property
    def prompt(self) -> str:
        """Text of the newest prompt, "" if the session has none."""
        return next((i.text for i in reversed(self.inputs) if i.kind == "prompt"), "")


class SteerSession(msgspec.Struct, frozen=True):
    """Replace the inputs of the kinds named here; newest wins. Shows in the next chunk that has not
    started.
    """

    session: str
    inputs: list[Input]


class Steered(msgspec.Struct, frozen=True):
    """`from_chunk`: the first chunk that will show the inputs, as the owning worker says (the next one, while
    none owns).
    """

    from_chunk: int
    inputs_version: int
    warnings: list[str] = []


class PauseSession(msgspec.Struct, frozen=True):
    session: str


class ResumeSession(msgspec.Struct, frozen=True):
    session: str


class SetRung(msgspec.Struct, frozen=True):
    """Make the session's further chunks at `rung` ("": the model's default), from the next one that has not
    started.
    """

    session: str
    rung: str


class CloseSession(msgspec.Struct, frozen=True):
    """Idempotent: closing a closed session answers with it as it is."""

    session: str


class GetSession(msgspec.Struct, frozen=True):
    session: str


class ListSessions(msgspec.Struct, frozen=True):
    """Newest first. `cursor` is the one of the page before, "" for the first page. `live_only` leaves ended
    ones out.
    """

    limit: int = 50
    cursor: str = ""
    live_only: bool = False


class SessionPage(msgspec.Struct, frozen=True):
    """`cursor` "" means there is no further page."""

    sessions: list[SessionView]
    cursor: str = ""


def cursor_after(created_at: float, session: str) -> str:
    """The cursor of the page that begins behind this session: a place in the order of time, in every cell."""
    return f"{created_at.hex()}~{session}"


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was refused: `code` for programs, `message` what was wrong, `hint` what to do about
    it. `retry_after_s` None: nothing is known of when it would be taken.
    """

    code: str
    message: str
    hint: str = ""
    retry_after_s: float | None = None
