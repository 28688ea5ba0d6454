"""Long work beside sessions that play: what comes next on the device, its next piece or somebody's step."""

from __future__ import annotations

from collections.abc import Sequence

from services.worker.again import Work
from services.worker.expecting import in_time

PATIENCE_S = 1.0
"""So long, in all, it is put off for others' chunks; longer only if nobody waits for it."""
_SLACK_S = 0.01
"""Who is later than that is late."""


def piece_first(
    mine: Work | None, others: Sequence[Work], put_off_s: float, now: float, after_s: float
) -> bool:
    """`mine`: what is left of the work, and of the chunk that waits for it; None: that one may not begin, and
    the work fills idle time only. `others`: chunks that can be stepped. `put_off_s`: for how long their steps
    came first. `after_s`: from a chunk's last step to the log.

    While it can be in time it is one of the chunks, earliest deadline first. Once it can't, whoever would be
    late behind all the rest of it, and isn't so anyway, is stepped before: nobody's chunk is late that
    needn't be, and the work is done in the end however many others there are.
    """
    if mine is None or not others:
        return not others
    if put_off_s >= PATIENCE_S:
        return True
    if now + mine.left_s + after_s <= mine.needed_at:
        return mine.needed_at <= min(others).needed_at
    spared = in_time(others, -_SLACK_S, now, after_s)
    if spared - in_time(others, mine.left_s - _SLACK_S, now, after_s):
        return False
    return all(mine.needed_at <= other.needed_at for other in others if other.key not in spared)
