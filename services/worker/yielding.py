"""Long work beside sessions that play: what comes next on the device, its next piece or somebody's step."""

from __future__ import annotations

from collections.abc import Sequence

from services.worker.again import Work
from services.worker.expecting import can_wait

PATIENCE_S = 1.0
"""So long, in all, it is put off for others' chunks; longer only if nobody waits for it."""


def piece_first(
    others: Sequence[Work], rest_s: float, put_off_s: float, now: float, after_s: float, *, wanted: bool
) -> bool:
    """`others`: what is left of their chunks, that can be stepped. `rest_s`: what is left of the work, and
    the chunk that waits for it; `put_off_s`: how long others' steps came first so far. `wanted`: that chunk
    may begin; else the work fills idle time only. `after_s`: from a chunk's last step to the log.

    Whoever would be late behind all the rest is stepped now, so that the device is never idle and nobody's
    chunk is late that needn't be. The work is done in the end however many others there are.
    """
    if not others:
        return True
    if not wanted:
        return False
    return put_off_s >= PATIENCE_S or can_wait(others, rest_s, now, after_s)
