"""What may happen to a session.

Facts arrive late and twice, so most name the ownership (epoch) they speak of.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.contracts.session import Input


class Placed(NamedTuple):
    """`choose` found room on a process of a worker."""

    worker: str
    incarnation: str


class OwnerLost(NamedTuple):
    """The owner of `epoch` is gone, or can't go on with it. `why` is for its users."""

    epoch: int
    why: str


class MoveProposed(NamedTuple):
    """The owner of `epoch` is to hand the session over: another epoch is given, to the move's target alone,
    and never again.
    """

    epoch: int


class HandedOver(NamedTuple):
    """The state has arrived at a process of `worker`, or its chunk of a higher `epoch` is in the log.

    Whatever was decided meanwhile: of two owners the one with the higher epoch is right.
    """

    worker: str
    incarnation: str
    epoch: int


class HandedBack(NamedTuple):
    """The owner of `epoch`, to which the session had just moved, can't go on; the one before still can."""

    epoch: int
    worker: str
    incarnation: str


class Steered(NamedTuple):
    inputs: list[Input]
    warnings: list[str]


class RungSet(NamedTuple):
    """`rung` "": the model's default."""

    rung: str


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
    | PausedByUser
    | ResumedByUser
    | Unwatched
    | Watched
    | UnwatchedTooLong
    | CopyFinished
    | CopyFailed
    | ClosedByUser
)
