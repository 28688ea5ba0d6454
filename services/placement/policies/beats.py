"""When chunks fall due, and who on one worker gets in whose way.

A viewer that keeps up has a beat: its next chunk falls due every `chunk_s`. Two sessions on a worker whose
beats are further apart than one chunk takes don't notice each other; with the same beat one always waits for
the other. Lateness counts to the fourth power: a few chunks that are very late are worse than many that are
a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_POWER = 4
_NEAR_S = 1e-9
_MOST_S = 1e6


class Tempo(NamedTuple):
    """`chunk_s`: how long a chunk plays. `alone_s`: what making one takes. `chunks`: of an active spell."""

    chunk_s: float
    alone_s: float
    chunks: float


class Fit(NamedTuple):
    """`harm`: what sharing would cost, in seconds to the fourth power. `beat_s`: what the session's beat
    would be.
    """

    harm: float
    beat_s: float


def fit(beats: Sequence[float], begin_s: float, beat_s: float | None, tempo: Tempo) -> Fit:
    """Of a session whose first chunk could be begun at `begin_s`, among `beats`. `beat_s`: its own, which
    it keeps if that chunk comes in time; None: its viewer has nothing left to play.
    """
    start_s = _first_gap(beats, begin_s, tempo)
    delivered_s = start_s + tempo.alone_s
    in_time = beat_s is not None and delivered_s <= beat_s
    own_s = beat_s if in_time and beat_s is not None else delivered_s
    harm = _late(start_s - begin_s)
    for beat in beats:
        harm += _start_harm((beat - start_s) % tempo.chunk_s, tempo.alone_s, in_time=in_time)
        harm += tempo.chunks * _late(overlap_s(own_s, beat, tempo))
    return Fit(harm, own_s)


def overlap_s(one_s: float, other_s: float, tempo: Tempo) -> float:
    """How long the later one of two waits for the other, at every chunk."""
    apart_s = (one_s - other_s) % tempo.chunk_s
    return max(0.0, tempo.alone_s - min(apart_s, tempo.chunk_s - apart_s))


def _first_gap(beats: Sequence[float], begin_s: float, tempo: Tempo) -> float:
    """When none of the others' chunks is being made, if there is such a moment."""
    start_s = begin_s
    for _ in beats:
        for beat in beats:
            since_s = (start_s - beat) % tempo.chunk_s
            if since_s < tempo.alone_s - _NEAR_S:
                start_s += tempo.alone_s - since_s
    return start_s


def _start_harm(due_s: float, alone_s: float, *, in_time: bool) -> float:
    """To one whose chunk falls due `due_s` after the start. A viewer that had nothing left is granted two
    chunks, made one after the other, unless the other's comes in between.
    """
    if due_s < alone_s:
        return _late(alone_s - due_s) + (0.0 if in_time else _late(alone_s))
    return 0.0 if in_time else _late(2.0 * alone_s - due_s)


def _late(late_s: float) -> float:
    return min(max(0.0, late_s), _MOST_S) ** _POWER
