"""Which copies step next.

Earliest deadline first, by when their viewers run dry; with the most urgent go those that fit its forward, as
many as the measured curve says raise throughput. Steps of one chunk may be interrupted by a more urgent
one's, so a new session waits for a step and not for a chunk. No session starves: an overdue one's deadline
stays where it is while those of the others move on with every grant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from services.worker.curve import Curve, paying_rows
from shared.contracts.session import CREDIT_WINDOW


class Candidate(NamedTuple):
    """A copy as planning sees it. `key` is the caller's.

    `stepping`: a chunk has begun and has steps left. `held`: no chunk may begin (paused, ended, not ready).
    `unappended`: chunks begun that the log doesn't have yet. `needed_at`: when the chunk in question is
    needed. `rung`: the one it is made at.
    """

    key: int
    stepping: bool
    held: bool
    next_chunk: int
    unappended: int
    granted_through: int
    needed_at: float
    max_chunks: int | None = None
    rung: str = ""


def may_begin(candidate: Candidate) -> bool:
    """Whether the next chunk of a copy may begin: it is wanted, has credit, and appends are not too far
    behind.
    """
    return (
        not candidate.held
        and candidate.next_chunk <= candidate.granted_through + CREDIT_WINDOW
        and (candidate.max_chunks is None or candidate.next_chunk < candidate.max_chunks)
        and candidate.unappended < CREDIT_WINDOW
    )


def plan_batch(
    candidates: Iterable[Candidate], curves: Mapping[str, Curve], beginnings: int
) -> Sequence[int]:
    """Keys of the copies that make the next step together, most urgent first.

    `curves`: by rung, "" being the default one. `beginnings`: how many chunks may begin, besides those begun
    already. Empty: nothing can step until something changes.
    """
    ready = [c for c in candidates if c.stepping or (beginnings > 0 and may_begin(c))]
    if not ready:
        return []
    ready.sort(key=lambda c: (c.needed_at, not c.stepping, c.key))
    curve = curves[ready[0].rung]
    alike = [c for c in ready if curves[c.rung].kind == curve.kind]
    beginners = {c.key for c in islice((c for c in alike if not c.stepping), beginnings)}
    able = [c for c in alike if c.stepping or c.key in beginners]
    return [c.key for c in able[: paying_rows(curve, len(able))]]
