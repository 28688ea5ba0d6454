"""Rows and reports to begin with."""

from typing import Any

from shared.contracts.fleet import CopyReport, DeviceReport, LoadReport, ModelReport
from shared.contracts.session import Input
from shared.store.rows import SessionRow

SESSION = "main_00000000000000000000"
MODEL = ModelReport("sprites", 160, 96, 12.0, 12, 9, 200, ["full", "low"], "sha256:0", 1)


def make_row(status: str = "queued", **changes: Any) -> SessionRow:
    """A sound row of any status."""
    fields: dict[str, Any] = {
        "id": SESSION,
        "tenant": "default",
        "cell": "main",
        "status": status,
        "phase": "as it is",
        "model": "sprites",
        "seed": 1,
        "inputs": [Input("prompt", "a red ball")],
        "created_at": 1.0,
        "updated_at": 1.0,
        "revision": 5,
        "epoch": 2,
        "next_chunk": 10,
    }
    if status in ("active", "paused"):
        fields |= {"worker": "w-1", "incarnation": "i-1"}
    if status == "paused":
        fields |= {"paused_by": "user"}
    if status in ("closed", "failed"):
        fields |= {"ended_at": 1.0, "reason": "it was over"}
    fields |= changes
    return SessionRow(**({"given_epoch": fields["epoch"]} | fields))


def make_copy(session: str = SESSION, **changes: Any) -> CopyReport:
    fields: dict[str, Any] = {
        "session": session,
        "tenant": "default",
        "epoch": 2,
        "revision": 5,
        "state": "running",
        "next_chunk": 10,
        "granted_through": 7,
    }
    return CopyReport(**(fields | changes))


def make_report(worker: str = "w-1", sequence: int = 1, *copies: CopyReport, **changes: Any) -> LoadReport:
    fields: dict[str, Any] = {
        "worker": worker,
        "incarnation": "i-1",
        "sequence": sequence,
        "state": "ready",
        "model": MODEL,
        "capacity": 2,
        "slots": 8,
        "copies": list(copies),
        "curve": [],
        "device": DeviceReport("cpu", "cpu"),
        "sent_at": 0.0,
        "started_at": 100.0,
    }
    return LoadReport(**(fields | changes))
