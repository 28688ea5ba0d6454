"""What a worker is to do for a move it takes part in."""

from __future__ import annotations

from typing import NamedTuple


class Send(NamedTuple):
    """Source: these parts, in this order, as they are when they are read. What changes while a pre-copy reads
    it has another version at the freeze, and is sent again.
    """

    stage: int
    names: tuple[str, ...]


class Freeze(NamedTuple):
    """Source: step it no more; tell the target `Promised(boundary)`. Steering waits for the thaw, or for the
    copy's end: placement repeats it to whoever owns the session then.
    """

    boundary: int


class GoOn(NamedTuple):
    """Source: abort the transfer, step it again, tell placement that the session stays and why."""

    why: str


class Start(NamedTuple):
    """Target: make the copy and chunk `next_chunk`, or what is left of it, with this epoch; tell placement
    that the state came.
    """

    next_chunk: int
    epoch: int


class Own(NamedTuple):
    """Target: tell placement that the session is here, whatever it may have decided meanwhile."""

    epoch: int


class Free(NamedTuple):
    """Target: abort the transfer, free slot and copy, and tell placement why. Never begin the session anew
    from here: the source may have it.
    """

    why: str


class Forget(NamedTuple):
    """Drop the copy: the session is elsewhere, or over."""


SourceDecision = Send | Freeze | GoOn | Forget
TargetDecision = Start | Own | Free | Forget
