"""What may happen to a session: row + event → the row after it, what to tell workers, and what to tell the
world.

One table in one file. An event that a status doesn't list doesn't concern it: facts arrive late and twice, so
most events name the ownership (worker, epoch) they speak of, and are void once that is over. What a user asks
for and may not have is a `Refusal`. Every new row is checked against `promises` before it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from services.placement.facts import (
    ClosedByUser,
    CopyFailed,
    CopyFinished,
    Event,
    HandedBack,
    HandedOver,
    MoveProposed,
    OwnerLost,
    PausedByUser,
    Placed,
    RefusedLater,
    ResumedByUser,
    RungSet,
    Steered,
    SteppedDown,
    SteppedUp,
    Unwatched,
    UnwatchedTooLong,
    Watched,
)
from services.placement.promises import broken, malformed
from shared.contracts.session import ENDED, Refusal, Status
from shared.store.rows import SessionRow

MAX_REPLACEMENTS = 3
"""A copy that fails once more than this takes its session with it: the next worker would fail on it too."""


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
    """What a rule makes of a row: new values, the public event ("": none), whether its owner drops the copy,
    and whether its owner hands it over."""

    values: dict[str, Any]
    public: str = ""
    drop: bool = False
    handed_over: bool = False


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
    if problem := broken(row, after, handed_over=outcome.handed_over):
        raise LifecycleBroken(f"{type(event).__name__} on {row.status} {row.id}: {problem}")
    return Step(after, _commands(row, after, outcome.drop), (outcome.public,) if outcome.public else ())


def opened(row: SessionRow) -> Step:
    """The first step of a new row, which is queued."""
    if problem := malformed(row):
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
    owner = _next_owner(row, event) | {"decision": event.decision}
    return Change(_ACTIVE | owner, "moved" if row.epoch else "started")


def _propose_move(row: SessionRow, event: MoveProposed) -> Outcome:
    if event.epoch != row.epoch or not row.worker:
        return None
    return Change({"given_epoch": row.given_epoch + 1})


def _propose_resume(row: SessionRow, event: MoveProposed) -> Outcome:
    """Its last owner's copy still has its state. It stays queued until that has arrived."""
    if event.epoch != row.epoch or not row.epoch:
        return None
    return Change({"given_epoch": row.given_epoch + 1})


def _hand_over(row: SessionRow, event: HandedOver) -> Outcome:
    """Without a word on status: who was paused stays so, whoever waited for a worker has one."""
    owns = (row.worker, row.incarnation) == (event.worker, event.incarnation)
    if owns or not row.epoch < event.epoch <= row.given_epoch:
        return None
    owner = {
        "worker": event.worker,
        "incarnation": event.incarnation,
        "epoch": event.epoch,
        "decision": event.decision or row.decision,
    }
    return Change(owner if row.status == "paused" else _ACTIVE | owner, "moved", handed_over=True)


def _hand_back(row: SessionRow, event: HandedBack) -> Outcome:
    owns = (row.worker, row.incarnation) == (event.worker, event.incarnation)
    if event.epoch != row.epoch or not row.worker or owns:
        return None
    return Change(_next_owner(row, event), "moved", handed_over=True)


def _next_owner(row: SessionRow, event: Placed | HandedBack) -> dict[str, Any]:
    epoch = row.given_epoch + 1
    return {
        "worker": event.worker,
        "incarnation": event.incarnation,
        "epoch": epoch,
        "given_epoch": epoch,
    }


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


def _set_rung(row: SessionRow, event: RungSet) -> Outcome:
    """One that was stepped down stays so, unless what it asks for now spares its worker as much."""
    if event.rung == row.rung:
        return None
    spares = event.cheaper or event.rung == row.served_rung
    return Change({"rung": event.rung, "served_rung": "" if spares else row.served_rung})


def _refuse_rung(row: SessionRow, _event: RungSet) -> Outcome:
    return _refuse_ended(row, "given another rung")


def _step_down(row: SessionRow, event: SteppedDown) -> Outcome:
    if event.rung in ("", row.rung, row.served_rung):
        return None
    return Change({"served_rung": event.rung, "decision": event.decision})


def _step_up(row: SessionRow, event: SteppedUp) -> Outcome:
    return Change({"served_rung": "", "decision": event.decision}) if row.served_rung else None


def _refuse(row: SessionRow, event: RefusedLater) -> Outcome:
    """Its key is free again: the next try with it may be taken."""
    if row.given_epoch:
        return None
    why = f"not taken: {event.why}; try again in {math.ceil(event.retry_after_s)} s"
    refused = {"status": "closed", "phase": "refused", "reason": why}
    return Change(refused | {"idempotency_key": None, "decision": event.decision}, "closed")


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
    # The copy stays where it is: that worker is its home for policies, and another epoch makes any other one
    # drop it.
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
    MoveProposed: {"queued": _propose_resume, "active": _propose_move, "paused": _propose_move},
    HandedOver: {"queued": _hand_over, "active": _hand_over, "paused": _hand_over},
    HandedBack: {"active": _hand_back, "paused": _hand_back},
    Steered: {
        "queued": _steer,
        "active": _steer,
        "paused": _steer,
        "closed": _refuse_to_steer,
        "failed": _refuse_to_steer,
    },
    RungSet: {
        "queued": _set_rung,
        "active": _set_rung,
        "paused": _set_rung,
        "closed": _refuse_rung,
        "failed": _refuse_rung,
    },
    SteppedDown: {"queued": _step_down, "active": _step_down, "paused": _step_down},
    SteppedUp: {"queued": _step_up, "active": _step_up, "paused": _step_up},
    RefusedLater: {"queued": _refuse},
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
