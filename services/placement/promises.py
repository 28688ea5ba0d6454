"""What must hold of every session's row, whatever happens."""

from __future__ import annotations

from shared.store.rows import SessionRow


def broken(before: SessionRow, after: SessionRow, *, handed_over: bool) -> str:
    """What is wrong with the change, "" if nothing is. `handed_over`: by a move, to its target or back."""
    gained = bool(after.worker) and (before.worker, before.incarnation) != (after.worker, after.incarnation)
    promises = {
        "an ended session changed": not before.ended,
        "the epoch must grow when a worker becomes the owner, and only then": after.epoch >= before.epoch
        and (after.epoch > before.epoch) == gained,
        "only a hand-over gives an epoch that was given before": handed_over
        or not gained
        or after.epoch > before.given_epoch,
        "without a hand-over an owner must not be replaced before it is lost": handed_over
        or not (gained and before.worker),
        "the revision must grow by one": after.revision == before.revision + 1,
        "inputs changed without their version": after.inputs == before.inputs
        or after.inputs_version > before.inputs_version,
        "a counter fell": after.next_chunk >= before.next_chunk
        and after.granted_through >= before.granted_through
        and after.given_epoch >= before.given_epoch
        and after.inputs_version >= before.inputs_version,
        "only a refusal frees an idempotency key": after.idempotency_key == before.idempotency_key
        or (after.idempotency_key is None and after.ended and not after.given_epoch),
        "what never changes changed": all(getattr(before, name) == getattr(after, name) for name in _FIXED),
    }
    return next((promise for promise, holds in promises.items() if not holds), "") or malformed(after)


_FIXED = ("id", "tenant", "cell", "model", "seed", "max_chunks", "created_at", "priority")


def malformed(row: SessionRow) -> str:
    """What no row may be, "" if it is sound."""
    owned = bool(row.worker)
    promises = {
        "an active session has an owner": row.status != "active" or owned,
        "a queued or ended session has no owner": row.status in ("active", "paused") or not owned,
        "an owner has an epoch and an incarnation": not owned or (row.epoch > 0 and bool(row.incarnation)),
        "no epoch beyond those given": row.epoch <= row.given_epoch,
        "paused, and only then paused by somebody": (row.status == "paused") == bool(row.paused_by),
        "ended, and only then with a time": row.ended == (row.ended_at is not None),
        "a session is served at another rung than it asked for, or none is named": not row.served_rung
        or row.served_rung != row.rung,
        "a prompt is among the inputs": any(given.kind == "prompt" for given in row.inputs),
    }
    return next((promise for promise, holds in promises.items() if not holds), "")
