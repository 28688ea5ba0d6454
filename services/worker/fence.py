"""What a refused append means: the chunk log arbitrates between workers that both believe they own a
session.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.contracts.stream import Chunk


class Appended(NamedTuple):
    """It is in the log: only the answer got lost."""

    sequence: int


class AppendAfter(NamedTuple):
    """It still follows what the log holds; only the sequence was wrong."""

    sequence: int


class Superseded(NamedTuple):
    """Another worker owns the session."""

    worker: str
    epoch: int


class StartAgain(NamedTuple):
    """This worker owns the session, but the log went on without it: begin anew at `next_chunk`."""

    next_chunk: int
    sequence: int


class Early(NamedTuple):
    """What its source made before is still on its way to the log."""


Verdict = Appended | AppendAfter | Superseded | StartAgain


def judge(mine: Chunk, last: Chunk | None, last_sequence: int) -> Verdict:
    """`mine` could not be appended; `last` is the newest chunk held (None: the log has none, as after it
    was lost).
    """
    if last is None:
        return AppendAfter(0)
    if (last.index, last.worker, last.media) == (mine.index, mine.worker, mine.media):
        return Appended(last_sequence)
    if last.epoch > mine.epoch or (last.epoch == mine.epoch and last.worker != mine.worker):
        return Superseded(last.worker, last.epoch)
    if last.index == mine.index - 1:
        return AppendAfter(last_sequence)
    return StartAgain(last.index + 1, last_sequence)


def follow(
    next_chunk: int, epoch: int, unappended: int, last: Chunk | None, last_sequence: int
) -> AppendAfter | Early | Superseded:
    """Where a copy that came by a move goes on, `unappended` chunks of its source's not being in the log at
    the freeze.
    """
    if last is None:
        return Early() if unappended else AppendAfter(0)
    if last.index >= next_chunk or last.epoch > epoch:
        return Superseded(last.worker, last.epoch)
    return AppendAfter(last_sequence) if last.index == next_chunk - 1 else Early()
