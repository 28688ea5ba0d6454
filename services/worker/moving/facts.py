"""What a worker learns of a move it takes part in."""

from __future__ import annotations

from typing import NamedTuple

from services.worker.moving.patience import Parts


class Boundary(NamedTuple):
    """Source: the device is at no step of it, and begins none before the decisions are carried out.

    `parts`: the state, but for what the rest of a chunk under way writes before it reads it. `next_chunk`:
    the one under way, else the next to begin. Chunks before it may still be on their way to the log.
    """

    next_chunk: int
    parts: Parts


class Sent(NamedTuple):
    """Source: the target has this stage."""

    stage: int


class Complete(NamedTuple):
    """Target: the rest has arrived, with all before it, and its checksums agree."""


class Promised(NamedTuple):
    """Target: the source froze, and makes `boundary` no further, nor any chunk after it."""

    boundary: int


class FirstAppend(NamedTuple):
    """Target: its first chunk is in the log, or (`won` False) it can't come there any more, and `why`."""

    won: bool
    why: str = "the source went on"


class Logged(NamedTuple):
    """Source: the log's newest chunk, by another worker."""

    epoch: int


class Told(NamedTuple):
    """Placement said that this worker owns the session, with this epoch."""

    epoch: int


class Dropped(NamedTuple):
    """Placement said to forget copies of up to this epoch: moved, closed, or placed elsewhere.

    A session without a chunk to make (paused, unwatched) proves nothing to the log. Its source may be told
    this once the target has said that it is `committed`, and must refuse if it went on past the boundary
    meanwhile.
    """

    epoch: int


class Failed(NamedTuple):
    """The link broke, the other side refused, bytes were wrong, placement called it off."""

    why: str


class Tick(NamedTuple):
    """Time has passed."""


SourceFact = Boundary | Sent | Logged | Told | Dropped | Failed | Tick
TargetFact = Complete | Promised | FirstAppend | Told | Dropped | Failed | Tick
