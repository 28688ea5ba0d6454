"""What a worker learns of a move it takes part in."""

from __future__ import annotations

from typing import NamedTuple

from services.worker.moving.patience import Parts


class Boundary(NamedTuple):
    """Source: no chunk is under way on the device, and none begins before the decisions are carried out.

    `parts`: the whole state. Chunks before `next_chunk` may still be on their way to the log.
    """

    next_chunk: int
    parts: Parts


class Denoised(NamedTuple):
    """Source: the chunk under way is to be decoded yet, and none begins before the decisions are carried out.

    `tail`: those of `parts`, the whole state, that its decode will write and that nothing else of the next
    chunk needs; all others are final. `next_chunk`: the one after it.
    """

    next_chunk: int
    parts: Parts
    tail: frozenset[str]


class Sent(NamedTuple):
    """Source: the target has this stage."""

    stage: int


class Complete(NamedTuple):
    """Target: the rest has arrived, with all before it, and its checksums agree."""


class Promised(NamedTuple):
    """Target: the source froze before chunk `boundary`. `tail`: it still decodes the one before, and
    what that leaves for the next decode comes later.
    """

    boundary: int
    tail: bool = False


class Whole(NamedTuple):
    """Target: the tail has arrived, with all before it."""


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


SourceFact = Boundary | Denoised | Sent | Logged | Told | Dropped | Failed | Tick
TargetFact = Complete | Promised | Whole | FirstAppend | Told | Dropped | Failed | Tick
