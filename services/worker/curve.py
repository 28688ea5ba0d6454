"""How long a step takes with so many rows, as measured, and what follows from it: how many rows pay, and how
many sessions keep up.
"""

from __future__ import annotations

from typing import NamedTuple

HEADROOM = 0.9  # of real time; the rest is for what a quiet start doesn't show
MIN_GAIN = 1.05  # less isn't told apart from chance, and would make the most urgent row wait for nothing


class Curve(NamedTuple):
    """`step_s`: (rows, seconds of one step) as measured, with 1 row always among them.

    `kind`: rungs of one kind shape their forwards alike, so they share a curve, and their rows may be stepped
    together.
    """

    kind: str
    step_s: tuple[tuple[int, float], ...]

    def rate(self, rows: int) -> float:
        """Row steps per second. Raises KeyError for a size that wasn't measured."""
        return rows / max(dict(self.step_s)[rows], 1e-9)


class Pace(NamedTuple):
    """What one chunk of a full window costs at a rung. `encode_s` runs beside the device."""

    curve: Curve
    forwards: int
    decode_s: float
    encode_s: float

    def chunk_s(self, rows: int) -> float:
        """Device seconds until each of `rows` sessions, stepped together, has its chunk."""
        return self.forwards * rows / self.curve.rate(rows) + rows * self.decode_s


def paying_rows(curve: Curve, ready: int) -> int:
    """How many of `ready` (at least one) rows to step together: the measured size of the highest rate, and 1
    unless more gain something.
    """
    best = 1
    for rows, _ in sorted(curve.step_s):
        if rows <= ready and curve.rate(rows) >= MIN_GAIN * curve.rate(best):
            best = rows
    return best


def round_s(pace: Pace, sessions: int) -> float:
    """Device seconds for one chunk of each, stepped in sizes that pay."""
    seconds, left = 0.0, sessions
    while left:
        rows = paying_rows(pace.curve, left)
        seconds += left // rows * pace.chunk_s(rows)
        left %= rows
    return seconds


def capacity(pace: Pace, chunk_duration_s: float, slots: int) -> int:
    """How many active sessions keep up with real time, at most `slots`. At least one, however slow."""
    limit_s, sessions = HEADROOM * chunk_duration_s, 0
    while sessions < slots:
        busiest_s = max(round_s(pace, sessions + 1), (sessions + 1) * pace.encode_s)
        if busiest_s > limit_s:
            break
        sessions += 1
    return max(1, sessions)
