"""What a worker is to do for a move it takes part in."""

from __future__ import annotations

from typing import NamedTuple


class Send(NamedTuple):
    """Source: these parts, in this order, as they are when they are read. What changes while a pre-copy reads
    it has another version at the boundary, and is sent again.
    """

    stage: int
    names: tuple[str, ...]


class Freeze(NamedTuple):
    """Source: begin no chunk; tell the target `Promised(boundary, tail)`. Steering waits for the thaw, or
    for the copy's end: placement repeats it to whoever owns the session then.
    """

    boundary: int
    tail: bool = False


class GoOn(NamedTuple):
    """Source: abort the transfer, begin chunks again, tell placement that the session stays and why."""

    why: str


class Start(NamedTuple):
    """Target: make the copy and chunk `next_chunk`, with this epoch. `whole`: as after `Settle`; else decode
    nothing before that.
    """

    next_chunk: int
    epoch: int
    whole: bool = True


class Settle(NamedTuple):
    """Target: nothing more comes; tell placement that the state came."""


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
TargetDecision = Start | Settle | Own | Free | Forget
