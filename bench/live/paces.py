"""How quick workers that share processors are, from chunks that reached viewers.

Counted are usual chunks in whose way no other of their worker's came. Such a chunk's latency is

    latency = alone / (1 - beside * (1 - 1 / beside_busy)) * chance

`alone`: the median of those beside which no other worker made chunks. `beside`: the share of its time during
which another one did. `chance`: what is left; the simulator draws it from its quantiles.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.live.house import Shown
from bench.sim.sharing import between
from turboserve.errors import TurboserveError

_APART, _BESIDE = 0.05, 0.2
"""Shares: below, a chunk was made apart from other workers' chunks; above, beside them."""
_LEAST = 4
"""Chunks for a median."""
_QUANTILES = 41
_MOST = 3.0


class Boot(NamedTuple):
    """Of a worker, in seconds of the replay."""

    ordered_s: float
    ready_s: float
    settled_s: float


class Paces(NamedTuple):
    """As in the simulator's Profile."""

    alone_s: float
    beside_busy: float
    beside_boot: float
    spread: tuple[float, ...]


def paces(shown: Sequence[Shown], boot: Boot) -> Paces:
    """Raises TurboserveError if there are too few chunks to tell."""
    undisturbed = [chunk for chunk in shown if chunk.usual and _has_its_worker(chunk, shown)]
    usual = [c for c in undisturbed if c.at_s < boot.ordered_s or c.due_s > boot.settled_s]
    booting = [c for c in undisturbed if c.due_s > boot.ordered_s and c.at_s < boot.ready_s]
    beside = [(chunk, _beside(chunk, shown)) for chunk in usual]
    alone_s = _median([chunk.latency_s for chunk, share in beside if share < _APART])
    lost = _lost([(share, 1.0 - alone_s / chunk.latency_s) for chunk, share in beside if share > _BESIDE])
    chance = [chunk.latency_s * (1.0 - share * lost) / alone_s for chunk, share in beside]
    return Paces(
        round(alone_s, 6),
        round(1.0 / (1.0 - lost), 3),
        round(max(1.0, _median([chunk.latency_s for chunk in booting]) / alone_s), 3),
        _evenly(chance),
    )


def _lost(seen: Sequence[tuple[float, float]]) -> float:
    """The share of a worker's pace that a busy one beside it takes: of all that was lost, by time beside.
    Nothing, if hardly any chunk was made so.
    """
    if len(seen) < _LEAST:
        return 0.0
    lost = sum(loss for _, loss in seen) / sum(share for share, _ in seen)
    return min(max(0.0, lost), 1.0 - 1.0 / _MOST)


def _has_its_worker(chunk: Shown, shown: Sequence[Shown]) -> bool:
    return all(_overlap_s(chunk, c) == 0.0 for c in shown if c is not chunk and c.worker == chunk.worker)


def _beside(chunk: Shown, shown: Sequence[Shown]) -> float:
    """Share of its time in which some other worker had a chunk in hand."""
    covered_s, until_s = 0.0, chunk.due_s
    for other in sorted(shown, key=lambda c: c.due_s):
        if other.worker != chunk.worker:
            end_s = min(other.at_s, chunk.at_s)
            covered_s += max(0.0, end_s - max(other.due_s, until_s))
            until_s = max(until_s, end_s)
    return covered_s / chunk.latency_s


def _overlap_s(one: Shown, other: Shown) -> float:
    return max(0.0, min(one.at_s, other.at_s) - max(one.due_s, other.due_s))


def _evenly(values: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of them, from the least to the greatest."""
    ordered = sorted(values)
    return tuple(round(between(ordered, n / (_QUANTILES - 1)), 3) for n in range(_QUANTILES))


def _median(values_s: Sequence[float]) -> float:
    if len(values_s) < _LEAST:
        raise TurboserveError("few_chunks", f"{len(values_s)} undisturbed chunks are too few to measure by")
    return statistics.median(values_s)
