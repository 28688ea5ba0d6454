"""What may happen to a session.

Facts arrive late and twice, so most name the ownership (epoch) they speak of.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.contracts.session import Input


class Placed(NamedTuple):
    """There is room on a process of a worker. `decision`: who decided so, by its id in the log of decisions;
    "": nobody to be asked.
    """

    worker: str
    incarnation: str
    decision: str = ""


class OwnerLost(NamedTuple):
    """The owner of `epoch` is gone, or can't go on with it. `why` is for its users."""

    epoch: int
    why: str


class MoveProposed(NamedTuple):
    """The owner of `epoch` is to hand the session over, or of a queued session whoever was it last: another
    epoch is given, to the move's target alone, and never again.
    """

    epoch: int


class HandedOver(NamedTuple):
    """The state has arrived at a process of `worker`, or its chunk of a higher `epoch` is in the log.

    Whatever was decided meanwhile: of two owners the one with the higher epoch is right. `decision`: who
    wanted the move; "": an operator, or nobody knows any more.
    """

    worker: str
    incarnation: str
    epoch: int
    decision: str = ""


class HandedBack(NamedTuple):
    """The owner of `epoch`, to which the session had just moved, can't go on; the one before still can."""

    epoch: int
    worker: str
    incarnation: str


class Steered(NamedTuple):
    inputs: list[Input]
    warnings: list[str]


class RungSet(NamedTuple):
    """`rung` "": the model's default. `cheaper`: it takes no more of a worker than the one that the session
    was stepped down to.
    """

    rung: str
    cheaper: bool = False


class SteppedDown(NamedTuple):
    """Demand is high: it is served at the lower `rung`, whatever it asked for."""

    rung: str
    decision: str


class SteppedUp(NamedTuple):
    """It is served as it asked again."""

    decision: str


class RefusedLater(NamedTuple):
    """No worker ever had it, and none would in time; its user may try again after `retry_after_s`."""

    retry_after_s: float
    why: str
    decision: str


class PausedByUser(NamedTuple):
    pass


class ResumedByUser(NamedTuple):
    """`owner_has_room`: the worker that holds the copy can go on with it."""

    owner_has_room: bool


class Unwatched(NamedTuple):
    """Nobody has watched since `since` (seconds since the epoch), longer than the set time."""

    since: float


class Watched(NamedTuple):
    """A viewer is there (again)."""

    owner_has_room: bool


class UnwatchedTooLong(NamedTuple):
    pass


class CopyFinished(NamedTuple):
    """The owner of `epoch` has put `max_chunks` chunks into the log."""

    epoch: int
    next_chunk: int


class CopyFailed(NamedTuple):
    epoch: int
    error: str


class ClosedByUser(NamedTuple):
    pass


Event = (
    Placed
    | OwnerLost
    | MoveProposed
    | HandedOver
    | HandedBack
    | Steered
    | RungSet
    | SteppedDown
    | SteppedUp
    | RefusedLater
    | PausedByUser
    | ResumedByUser
    | Unwatched
    | Watched
    | UnwatchedTooLong
    | CopyFinished
    | CopyFailed
    | ClosedByUser
)
