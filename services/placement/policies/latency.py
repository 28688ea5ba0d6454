"""What a worker's reported curve says about a chunk's latency with n active sessions.

The same reckoning as the worker's own (services/worker/curve.py), which services don't share: a test holds
the two together.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.contracts.fleet import LatencyPoint

_MIN_GAIN = 1.05
"""Less isn't told apart from chance, so the worker doesn't step more rows for it."""


def latencies_s(points: Iterable[LatencyPoint], slots: int, rung: str = "") -> tuple[float, ...]:
    """Seconds until each of n sessions has its next chunk, for n from 0 to `slots`. Without a point for one
    row, as from a worker that measured nothing, all are 0.
    """
    measured = sorted((point.batch, point.chunk_s) for point in points if point.rung == rung)
    latencies = [0.0]
    if not measured or measured[0][0] != 1:
        return (0.0,) * (slots + 1)
    for sessions in range(1, slots + 1):
        rows, chunk_s = _best(measured, sessions)
        rounds, left = divmod(sessions, rows)
        latencies.append(rounds * chunk_s + latencies[left])
    return tuple(latencies)


def _best(measured: list[tuple[int, float]], ready: int) -> tuple[int, float]:
    """The size that is stepped with so many ready: the highest rate, and one row unless more gain
    something.
    """
    best = measured[0]
    for rows, chunk_s in measured:
        if rows <= ready and rows * best[1] >= _MIN_GAIN * best[0] * chunk_s:
            best = rows, chunk_s
    return best
