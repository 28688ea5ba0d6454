"""Moves for latency's sake: planned as a set, since of several workers that are equally bad, emptying one
gains nothing; and one at a time for two sessions whose chunks always fall due together.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from services.placement.policies.beats import Tempo, fit, overlap_s
from services.placement.policies.board import Board
from services.placement.policies.view import Session, Worker

_FITS = 0.5
"""A move out of the way must at least halve what a chunk waits."""
_IN_THE_WAY = 0.65
"""Of the time that a chunk takes: who waits less isn't moved for it."""


class PlannedMove(NamedTuple):
    session: Session
    source: Worker
    target: Worker


def moves_to(board: Board, least_s: float, may_be: Callable[[int], bool]) -> list[PlannedMove]:
    """Off every worker above `least_s`, onto those that stay within it; empty if not all can go, or more
    moves would be needed than there `may_be`.
    """
    plan = _Plan(board, least_s, may_be)
    above = [w for w, now_s in zip(board.ready, board.now_s(), strict=True) if not now_s <= least_s]
    return plan.moves if all(map(plan.relieve, above)) else []


class _Plan:
    """`more`: what the moves so far add to a worker."""

    def __init__(self, board: Board, least_s: float, may_be: Callable[[int], bool]) -> None:
        self.moves: list[PlannedMove] = []
        self._board = board
        self._least_s = least_s
        self._may_be = may_be
        self._more: Counter[str] = Counter()

    @functools.cached_property
    def _targets(self) -> list[Worker]:
        within = (worker for worker in self._board.ready if self._within(worker, 0.0))
        return sorted(within, key=self._board.latency_s)

    def relieve(self, source: Worker) -> bool:
        """False: nowhere to go for one that must, or too many must."""
        gone = 0.0
        for session in _movable(self._board, source):
            if self._within(source, -gone):
                return True
            if not self._may_be(len(self.moves) + 1):
                return False
            target = next((worker for worker in self._targets if self._takes(worker, session)), None)
            if target is None:
                return False
            self._more[target.worker] += session.weight  # type: ignore[assignment]
            gone += session.weight
            self.moves.append(PlannedMove(session, source, target))
        return True

    def _within(self, worker: Worker, more: float) -> bool:
        return self._board.latency_s(worker, more) <= self._least_s

    def _takes(self, worker: Worker, session: Session) -> bool:
        more = self._more[worker.worker] + session.weight
        within = self._board.loads[worker.worker] + more <= worker.capacity
        return worker.group == session.group and within and self._within(worker, more)


def _movable(board: Board, source: Worker) -> list[Session]:
    """Cheapest first, then who has been active longest: likely to stay so."""
    return sorted(board.here(source.worker), key=lambda s: (s.move_cost_s, s.since_s, s.session))


def least_worst_s(board: Board) -> float:
    """The least worst latency of the sessions that are on ready workers, whatever moves it took."""
    by_group: dict[str, list[Worker]] = {}
    for worker in board.ready:
        by_group.setdefault(worker.group, []).append(worker)
    return max((_least_of(board, workers) for workers in by_group.values()), default=0.0)


def _least_of(board: Board, workers: list[Worker]) -> float:
    """Filled where it hurts least: the n-th smallest of all their latencies with 1, 2, … sessions."""
    sessions = math.ceil(sum(board.loads[worker.worker] for worker in workers) - 1e-9)
    if sessions <= 0:
        return 0.0
    alike = Counter(worker.latency_s for worker in workers)
    steps = sorted((value, count) for curve, count in alike.items() for value in curve[1 : sessions + 1])
    for value, count in steps:
        sessions -= count
        if sessions <= 0:
            return value
    return 0.0


def untangled(board: Board, active_s: float) -> PlannedMove | None:
    """The move that ends the longest wait of one session for another, both active for `active_s`: to where
    a chunk takes no longer and hardly waits.
    """
    waits = sorted(_waits(board, active_s), key=lambda wait: (-wait[0], wait[1].session))
    for wait_s, session, source in waits:
        if (target := _out_of_the_way(board, session, source, wait_s)) is not None:
            return PlannedMove(session, source, target)
    return None


def _waits(board: Board, active_s: float) -> Iterator[tuple[float, Session, Worker]]:
    """Of each worker with several sessions, who waits longest and may be moved for it."""
    for name in _shared(board, active_s):
        source = board.workers[name]
        settled = [s for s in board.here(name) if _is_settled(board, s, active_s)]
        for session in settled if len(settled) > 1 else ():
            wait_s = _wait_s(board, session, source)
            chunks = board.view.spell_s / board.view.chunk_s
            if wait_s * chunks > 2 * session.move_cost_s and wait_s > _IN_THE_WAY * source.latency_s[1]:
                yield wait_s, session, source


def _shared(board: Board, active_s: float) -> Iterator[str]:
    """Ready workers that may have several such sessions."""
    now_s = board.view.now_s
    settled = Counter([s.worker for s in board.placed if now_s - s.since_s >= active_s])
    names = {worker for worker, count in settled.items() if count > 1}.union(board.changed())
    return (name for name in names if board.workers[name].state == "ready")


def _is_settled(board: Board, session: Session, active_s: float) -> bool:
    return session.beat_s is not None and board.view.now_s - session.since_s >= active_s


def _wait_s(board: Board, session: Session, worker: Worker) -> float:
    """For the others there, at every chunk."""
    tempo = tempo_of(board, worker)
    beats = [s.beat_s for s in board.here(worker.worker) if s is not session and s.beat_s is not None]
    return (
        sum(overlap_s(session.beat_s, beat, tempo) for beat in beats) if session.beat_s is not None else 0.0
    )


def _out_of_the_way(board: Board, session: Session, source: Worker, wait_s: float) -> Worker | None:
    begin_s, now_s = board.view.now_s + session.move_cost_s, board.latency_s(source)
    best: tuple[float, Worker] | None = None
    for worker in board.free(session):
        if worker is source or board.latency_s(worker, session.weight) > now_s:
            continue
        beats, tempo = board.beats(worker.worker), tempo_of(board, worker)
        if session.beat_s is None or _FITS * wait_s < sum(overlap_s(session.beat_s, b, tempo) for b in beats):
            continue
        harm = fit(beats, begin_s, session.beat_s, tempo).harm
        if best is None or harm < best[0]:
            best = harm, worker
        if harm <= 0.0:
            break
    return best[1] if best else None


def tempo_of(board: Board, worker: Worker) -> Tempo:
    view = board.view
    return Tempo(view.chunk_s, worker.latency_s[1] if worker.slots else 0.0, view.spell_s / view.chunk_s)
