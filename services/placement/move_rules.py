"""May this session be moved to that worker? Everything that can be known before anything is tried."""

from __future__ import annotations

from collections.abc import Mapping

from services.placement.room import Room
from shared.contracts.fleet import LoadReport, ModelReport
from shared.contracts.moves import compatibility_of
from shared.contracts.session import Refusal
from shared.store.rows import SessionRow

_WORDS = {"weights_digest": "weights", "state_bytes": "bytes of state"}
_ELSEWHERE = "name another worker, or none for the one with most room"

Reports = Mapping[str, LoadReport]
"""Of the workers that are alive, by name; one that is being drained says so in `state`."""


def refuse_session(row: SessionRow, reports: Reports) -> Refusal | None:
    """Why the session can't be moved anywhere, None if it can."""
    if row.ended:
        return Refusal(
            "session_ended", f"session {row.id} is {row.status} ({row.reason})", "open a new session"
        )
    if not row.worker:
        hint = "it is placed as soon as there is room, or when it is resumed"
        return Refusal("not_owned", f"session {row.id} is on no worker: there is nothing to move", hint)
    if row.worker not in reports:
        hint = "it is placed elsewhere as soon as that is sure"
        return Refusal("not_owned", f"worker {row.worker}, which has session {row.id}, falls silent", hint)
    return None


def refuse_target(
    row: SessionRow, to: str, reports: Reports, rooms: Mapping[str, Room] | None
) -> Refusal | None:
    """Why not to `to`, None if it can be tried. The session itself may be moved. `rooms` None: there is room,
    by a decision that knows what each session there takes.
    """
    if to not in reports:
        known = ", ".join(sorted(reports)[:10])
        return Refusal("worker_not_found", f"there is no worker {to[:60]!r}", f"workers: {known}")
    if to == row.worker:
        return Refusal("already_there", f"session {row.id} is on worker {to} already", _ELSEWHERE)
    source, target = reports[row.worker], reports[to]
    if target.state != "ready":
        return Refusal("worker_not_ready", f"worker {to} is {target.state}", _ELSEWHERE)
    return (
        _refuse_model(row, source, target)
        or _refuse_link(source, target)
        or (_refuse_room(row, rooms[to], target) if rooms is not None else None)
    )


def _refuse_model(row: SessionRow, source: LoadReport, target: LoadReport) -> Refusal | None:
    here, there = source.model, target.model
    if there.name != here.name:
        return _incompatible(
            f"worker {target.worker} serves {there.name}, session {row.id} is of {here.name}"
        )
    if row.rung and row.rung not in there.rungs:
        return _incompatible(f"worker {target.worker} has no rung {row.rung!r}")
    for report in (source, target):
        if not report.model.architecture:
            return _incompatible(
                f"worker {report.worker} does not say which architecture {here.name} has there"
            )
    differences = _differences(here, there)
    if differences:
        return _incompatible(
            f"workers {source.worker} and {target.worker} differ in {'; '.join(differences)}"
        )
    return None


def _differences(here: ModelReport, there: ModelReport) -> list[str]:
    ours, theirs = compatibility_of(here), compatibility_of(there)
    return [
        f"{_WORDS.get(name, name)}: {getattr(ours, name)} and {getattr(theirs, name)}"
        for name in ours.__struct_fields__
        if getattr(ours, name) != getattr(theirs, name)
    ]


def _refuse_link(source: LoadReport, target: LoadReport) -> Refusal | None:
    if set(source.transports) & set(target.transports):
        return None
    ways = (f"{report.worker}: {', '.join(report.transports) or 'none'}" for report in (source, target))
    return _incompatible(f"no transport links the two workers ({'; '.join(ways)})")


def _refuse_room(row: SessionRow, room: Room, target: LoadReport) -> Refusal | None:
    """A paused session needs a slot and no share of the device: the target itself knows about slots."""
    if row.status != "active" or room.free:
        return None
    message = f"worker {target.worker} has no room: {room.active} of {room.capacity} active sessions"
    return Refusal("no_slot", message, _ELSEWHERE)


def _incompatible(message: str) -> Refusal:
    return Refusal(
        "incompatible", message, "a session moves only between workers of the same model and weights"
    )


def best_target(row: SessionRow, reports: Reports, rooms: Mapping[str, Room]) -> str | Refusal:
    """The worker with most room that could go on with the session's state, or why there is none."""
    others = sorted(worker for worker in reports if worker != row.worker)
    refused = {worker: refuse_target(row, worker, reports, rooms) for worker in others}
    fitting = [worker for worker, refusal in refused.items() if refusal is None]
    if fitting:
        return min(fitting, key=lambda worker: (_load(rooms[worker]), worker))
    if not others:
        return Refusal("no_slot", "there is no other worker", "start one")
    reasons = [refusal for refusal in refused.values() if refusal is not None]
    full = next((refusal for refusal in reasons if refusal.code == "no_slot"), reasons[0])
    return Refusal(full.code, f"no worker can take session {row.id}: {full.message}", "start another worker")


def _load(room: Room) -> float:
    return room.active / room.capacity if room.capacity else 1.0
