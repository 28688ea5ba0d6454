"""Which copies step next.

Earliest deadline first, by when their viewers run dry. Steps of one chunk may be interrupted by a more
urgent one's, so a new session waits for a step and not for a chunk. No session starves: an overdue one's
deadline stays where it is while those of the others move on with every grant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shared.contracts.session import CREDIT_WINDOW


class Candidate(NamedTuple):
    """A copy as planning sees it. `key` is the caller's.

    `stepping`: a chunk has begun and has steps left. `held`: no chunk may begin (paused, ended, not ready).
    `unappended`: chunks begun that the log doesn't have yet. `needed_at`: when the chunk in question is
    needed.
    """

    key: int
    stepping: bool
    held: bool
    next_chunk: int
    unappended: int
    granted_through: int
    needed_at: float
    max_chunks: int | None = None


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


def plan_batch(candidates: Iterable[Candidate], max_rows: int, beginning: bool = True) -> Sequence[int]:
    """Keys of the copies that make the next step together, most urgent first, at most `max_rows`.

    Empty: nothing can step until something changes. `beginning` False: only chunks already begun are
    finished.
    """
    ready = [c for c in candidates if c.stepping or (beginning and may_begin(c))]
    ready.sort(key=lambda c: (c.needed_at, not c.stepping, c.key))
    return [c.key for c in ready[:max_rows]]
