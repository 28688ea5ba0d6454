"""When a chunk is due, and when its viewer runs dry without it. Times are seconds on one clock, given by
the caller.
"""

from __future__ import annotations


def due_at(previous_delivered_at: float, credit_at: float, input_at: float) -> float:
    """A chunk is due once the one before is delivered, its credit is there, and its input (or a resume) is
    applied.
    """
    return max(previous_delivered_at, credit_at, input_at)


def needed_at(granted_at: float, granted_through: int, index: int, chunk_duration_s: float) -> float:
    """When the furthest viewer will have played everything before chunk `index`.

    A grant says that the viewer is done with `granted_through`, so what lies between plays for its
    duration. Before the first one `granted_at` is when the session was opened here.
    """
    return granted_at + max(0, index - granted_through - 1) * chunk_duration_s
