"""Whether a worker has room for one more, and which states and refusals speak of what.

Which worker a session is placed on or moved to is the policy's to say (`policies`, by `ticks`). An operator
who moves a session may name any worker with room, and a worker asked for by nobody is checked the same way
(`move_rules`): this is the check.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.contracts.fleet import LoadReport

OVER = frozenset({"finished", "failed", "superseded"})
"""States of a copy that makes no further chunk."""
ELSEWHERE = frozenset({"draining", "no_slot"})
"""Refusals of a worker that speak of itself, not of the session."""


class Room(NamedTuple):
    """A worker that takes sessions: how many keep up there (`capacity`), and how many active ones it owns."""

    worker: str
    incarnation: str
    model: str
    capacity: int
    active: int

    @property
    def free(self) -> bool:
        return self.active < self.capacity


def room_of(report: LoadReport, active: int) -> Room:
    """`active`: sessions it owns by placement's rows, which know more than the report."""
    return Room(report.worker, report.incarnation, report.model.name, capacity_of(report), active)


def capacity_of(report: LoadReport) -> int:
    """How many active sessions it takes: none unless it is ready."""
    return min(report.capacity, report.slots) if report.state == "ready" else 0
