"""What may happen to a session: row + event → the row after it, what to tell workers, and what to tell the
world.

One table in one file. An event that a status doesn't list doesn't concern it: facts arrive late and twice, so
most events name the ownership (worker, epoch) they speak of, and are void once that is over. What a user asks
for and may not have is a `Refusal`. Every new row is checked against `_broken` before it leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from shared.contracts.session import ENDED, Input, Refusal, Status
from shared.store.rows import SessionRow

MAX_REPLACEMENTS = 3
"""A copy that fails once more than this takes its session with it: the next worker would fail on it too."""


class Placed(NamedTuple):
    """`choose` found room on a process of a worker."""

    worker: str
    incarnation: str


class OwnerLost(NamedTuple):
    """The owner of `epoch` is gone, or can't go on with it. `why` is for its users."""

    epoch: int
    why: str


class Steered(NamedTuple):
    inputs: list[Input]
    warnings: list[str]


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
    | Steered
    | PausedByUser
    | ResumedByUser
    | Unwatched
    | Watched
    | UnwatchedTooLong
    | CopyFinished
    | CopyFailed
    | ClosedByUser
)


class TellOwn(NamedTuple):
    """Send the session's `Own`, made from its row, to `worker`."""

    worker: str


class TellDrop(NamedTuple):
    """Have `worker` drop the session's copy of at most `epoch`."""

    worker: str
    epoch: int


class Step(NamedTuple):
    """`row` is the same object if nothing changed. `public`: names of events for the outbox
    (`EVENT_NAMES`)."""

    row: SessionRow
    commands: tuple[TellOwn | TellDrop, ...] = ()
    public: tuple[str, ...] = ()


class LifecycleBroken(AssertionError):
    """A rule of this file made a row that must not exist."""


class Change(NamedTuple):
    """What a rule makes of a row: new values, the public event ("": none), and whether its owner drops the
    copy."""

    values: dict[str, Any]
    public: str = ""
    drop: bool = False


Outcome = Change | Refusal | None
Rule = Callable[[SessionRow, Any], Outcome]


def step(row: SessionRow, event: Event, now: float) -> Step | Refusal:
    """`now`: seconds since the epoch. None of its arguments is changed."""
    rule = TABLE[type(event)].get(row.status)
    outcome = rule(row, event) if rule else None
    if isinstance(outcome, Refusal):
        return outcome
    if outcome is None:
        return Step(row)
    after = _after(row, outcome.values, now)
    if problem := _broken(row, after):
        raise LifecycleBroken(f"{type(event).__name__} on {row.status} {row.id}: {problem}")
    return Step(after, _commands(row, after, outcome.drop), (outcome.public,) if outcome.public else ())


def opened(row: SessionRow) -> Step:
    """The first step of a new row, which is queued."""
    if problem := _malformed(row):
        raise LifecycleBroken(f"new session {row.id}: {problem}")
    return Step(row, (), ("opened",))


def _after(row: SessionRow, values: dict[str, Any], now: float) -> SessionRow:
    ends = values.get("status") in ENDED
    fixed = {"worker": "", "incarnation": "", "paused_by": "", "ended_at": now} if ends else {}
    return msgspec.structs.replace(row, **(values | fixed), revision=row.revision + 1, updated_at=now)


def _commands(before: SessionRow, after: SessionRow, drop: bool) -> tuple[TellOwn | TellDrop, ...]:
    if after.worker:
        return (TellOwn(after.worker),)
    if before.worker and (drop or after.ended):
        return (TellDrop(before.worker, before.epoch),)
    return ()


# One rule for each thing that can happen.


def _place(row: SessionRow, event: Placed) -> Outcome:
    owner = {"worker": event.worker, "incarnation": event.incarnation, "epoch": row.epoch + 1}
    return Change(_ACTIVE | owner, "moved" if row.epoch else "started")


def _lose(row: SessionRow, event: OwnerLost) -> Outcome:
    if event.epoch != row.epoch:
        return None
    return Change(_NO_OWNER | {"status": "queued", "phase": "recovering", "reason": event.why})


def _lose_paused(row: SessionRow, event: OwnerLost) -> Outcome:
    return Change(_NO_OWNER) if row.worker and event.epoch == row.epoch else None


def _steer(row: SessionRow, event: Steered) -> Outcome:
    replaced = {given.kind for given in event.inputs}
    inputs = [held for held in row.inputs if held.kind not in replaced] + event.inputs
    version = row.inputs_version + 1
    return Change({"inputs": inputs, "inputs_version": version, "warnings": event.warnings}, "steered")


def _refuse_to_steer(row: SessionRow, _event: Steered) -> Outcome:
    return _refuse_ended(row, "steered")


def _pause(_row: SessionRow, _event: PausedByUser) -> Outcome:
    return Change(_PAUSED | {"phase": "user", "paused_by": "user", "reason": ""}, "paused")


def _pause_for_good(row: SessionRow, _event: PausedByUser) -> Outcome:
    """Paused because nobody watched, and now by a user: a viewer's return no longer resumes it."""
    if row.paused_by == "user":
        return None
    return Change({"phase": "user", "paused_by": "user", "reason": ""})


def _refuse_to_pause(row: SessionRow, _event: PausedByUser) -> Outcome:
    return _refuse_ended(row, "paused")


def _resume(row: SessionRow, event: ResumedByUser | Watched) -> Outcome:
    if row.worker and event.owner_has_room:
        return Change(_ACTIVE | {"unwatched_since": None}, "resumed")
    # The copy stays where it is: `choose` prefers that worker, and another epoch makes any other one drop it.
    return Change(_NO_OWNER | _QUEUED | {"unwatched_since": None}, "resumed")


def _resume_watched(row: SessionRow, event: Watched) -> Outcome:
    return _resume(row, event) if row.paused_by == "unwatched" else None


def _refuse_to_resume(row: SessionRow, _event: ResumedByUser) -> Outcome:
    return _refuse_ended(row, "resumed")


def _leave_unwatched(_row: SessionRow, event: Unwatched) -> Outcome:
    why = {"phase": "unwatched", "paused_by": "unwatched", "unwatched_since": event.since}
    return Change(_PAUSED | why | {"reason": "nobody is watching"}, "paused")


def _close_unwatched(_row: SessionRow, _event: UnwatchedTooLong) -> Outcome:
    return Change(
        {"status": "closed", "phase": "unwatched", "reason": "nobody watched for too long"}, "closed"
    )


def _finish(row: SessionRow, event: CopyFinished) -> Outcome:
    if event.epoch != row.epoch or not row.worker:
        return None
    made = max(row.next_chunk, event.next_chunk)
    return Change(
        {"status": "closed", "phase": "finished", "reason": "finished", "next_chunk": made}, "closed"
    )


def _fail(row: SessionRow, event: CopyFailed) -> Outcome:
    if event.epoch != row.epoch or not row.worker:
        return None
    failures = row.failures + 1
    if failures > MAX_REPLACEMENTS:
        why = f"gave up after {failures} failures, the last: {event.error}"
        return Change({"status": "failed", "phase": "failed", "reason": why, "failures": failures}, "failed")
    again = _NO_OWNER | {"failures": failures}
    if row.status == "active":
        again |= {"status": "queued", "phase": "recovering", "reason": event.error}
    return Change(again, drop=True)


def _close(_row: SessionRow, _event: ClosedByUser) -> Outcome:
    return Change({"status": "closed", "phase": "closed", "reason": "closed by its user"}, "closed")


def _refuse_ended(row: SessionRow, verb: str) -> Refusal:
    return Refusal(
        "session_ended",
        f"session {row.id} is {row.status} ({row.reason}) and can't be {verb}",
        "open a new session",
    )


_NO_OWNER: dict[str, Any] = {"worker": "", "incarnation": ""}
_QUEUED: dict[str, Any] = {"status": "queued", "phase": "waiting", "reason": "", "paused_by": ""}
_ACTIVE: dict[str, Any] = {"status": "active", "phase": "running", "reason": "", "paused_by": ""}
_PAUSED: dict[str, Any] = {"status": "paused"}

TABLE: dict[type[Any], dict[Status, Rule]] = {
    Placed: {"queued": _place},
    OwnerLost: {"active": _lose, "paused": _lose_paused},
    Steered: {
        "queued": _steer,
        "active": _steer,
        "paused": _steer,
        "closed": _refuse_to_steer,
        "failed": _refuse_to_steer,
    },
    PausedByUser: {
        "queued": _pause,
        "active": _pause,
        "paused": _pause_for_good,
        "closed": _refuse_to_pause,
        "failed": _refuse_to_pause,
    },
    ResumedByUser: {"paused": _resume, "closed": _refuse_to_resume, "failed": _refuse_to_resume},
    Unwatched: {"queued": _leave_unwatched, "active": _leave_unwatched},
    Watched: {"paused": _resume_watched},
    UnwatchedTooLong: {"queued": _close_unwatched, "active": _close_unwatched, "paused": _close_unwatched},
    CopyFinished: {"active": _finish, "paused": _finish},
    CopyFailed: {"active": _fail, "paused": _fail},
    ClosedByUser: {"queued": _close, "active": _close, "paused": _close},
}


# What must hold whatever happens.


def _broken(before: SessionRow, after: SessionRow) -> str:
    """What is wrong with the change, "" if nothing is."""
    gained = bool(after.worker) and (before.worker, before.incarnation) != (after.worker, after.incarnation)
    promises = {
        "an ended session changed": not before.ended,
        "the epoch must grow by one when a worker becomes the owner, and only then": after.epoch
        == before.epoch + gained,
        "an owner must not be replaced before it is lost": not (gained and before.worker),
        "the revision must grow by one": after.revision == before.revision + 1,
        "inputs changed without their version": after.inputs == before.inputs
        or after.inputs_version > before.inputs_version,
        "a counter fell": after.next_chunk >= before.next_chunk
        and after.granted_through >= before.granted_through
        and after.inputs_version >= before.inputs_version,
        "what never changes changed": all(getattr(before, name) == getattr(after, name) for name in _FIXED),
    }
    return next((promise for promise, holds in promises.items() if not holds), "") or _malformed(after)


_FIXED = ("id", "tenant", "cell", "model", "seed", "rung", "max_chunks", "created_at", "idempotency_key")


def _malformed(row: SessionRow) -> str:
    """What no row may be, "" if it is sound."""
    owned = bool(row.worker)
    promises = {
        "an active session has an owner": row.status != "active" or owned,
        "a queued or ended session has no owner": row.status in ("active", "paused") or not owned,
        "an owner has an epoch and an incarnation": not owned or (row.epoch > 0 and bool(row.incarnation)),
        "paused, and only then paused by somebody": (row.status == "paused") == bool(row.paused_by),
        "ended, and only then with a time": row.ended == (row.ended_at is not None),
        "a prompt is among the inputs": any(given.kind == "prompt" for given in row.inputs),
    }
    return next((promise for promise, holds in promises.items() if not holds), "")
