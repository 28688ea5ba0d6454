"""The placement controller of TurboServe (arXiv 2606.19271), as published.

Placed sessions stay; each active one on no worker goes to the feasible worker that gives the smallest worst
latency L, near-ties to the lighter one; then, while there is gain, the best move off the bottleneck, with
gain Γ = L − L′ − η·κ. It knows no admission: with nowhere to go within capacity, a session goes to the
lightest worker that has a slot.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import msgspec

from services.placement.policies.board import Board
from services.placement.policies.least_loaded import empty_draining, least_loaded
from services.placement.policies.view import Decision, Memory, Session, View, Worker


class Gain(NamedTuple):
    gain_s: float
    session: Session
    target: Worker


def gain_s(worst_s: float, worst_after_s: float, eta: float, move_cost_s: float) -> float:
    """Γ = L − L′ − η·κ."""
    return worst_s - worst_after_s - eta * move_cost_s


class Paper(msgspec.Struct, frozen=True, tag="paper"):
    """`eta`: weight of a move's cost. `near_tie`: latencies within this share count as equal."""

    eta: float = 1.0
    near_tie: float = 0.01

    def decide(self, view: View, memory: Memory) -> Decision:
        board = Board(view)
        waiting = [session for session in board.waiting if not self._place(board, session)]
        empty_draining(board)
        self._rebalance(board)
        return board.decision(memory, waiting)

    def _place(self, board: Board, session: Session) -> bool:
        worker = self.smallest_worst(board, session) or least_loaded(board, session)
        if worker is not None:
            board.place(session, worker, "gives the smallest worst latency")
        return worker is not None

    def smallest_worst(self, board: Board, session: Session) -> Worker | None:
        """Placing raises only the chosen worker's latency: L is the greater of that and today's worst. A
        latency that is none (below 0, NaN) ties with all.
        """
        free = board.vacancies(session)
        if not free.workers:
            return None
        worst_s = max(board.now_s())
        after_s = [max(worst_s, latency_s) for latency_s in free.latencies_s]
        tied_s = min(after_s) * (1.0 + self.near_tie)
        tied = [w for w, latency_s in zip(free.workers, after_s, strict=True) if latency_s <= tied_s]
        return min(tied or free.workers, key=board.ratio)

    def _rebalance(self, board: Board) -> None:
        # Every move lowers L by more than η·κ ≥ 0, and there are finitely many placements: this ends.
        while (best := self.best_move(board)) is not None:
            source = board.workers[self._bottleneck(board).worker]
            board.move(
                best.session, source, best.target, f"lowers the worst latency, Γ = {best.gain_s:.3f} s"
            )

    def _bottleneck(self, board: Board) -> Worker:
        now_s = board.now_s()
        return board.ready[now_s.index(max(now_s))]

    def best_move(self, board: Board) -> Gain | None:
        """The best move off the bottleneck if its Γ is more than 0."""
        if len(board.ready) < 2:
            return None
        worst_s = max(board.now_s())
        if sum([latency_s >= worst_s for latency_s in board.now_s()]) > 2:
            return None  # Whatever moves, a third worker stays as slow.
        source = self._bottleneck(board)
        best: Gain | None = None
        for session in board.here(source.worker):
            gains_s = self._gains_s(board, session, source)
            gain = max(gains_s, default=0.0)
            if gain > 0.0 and (best is None or gain > best.gain_s):
                target = board.vacancies(session).workers[gains_s.index(gain)]
                best = Gain(gain, session, target)
        return best

    def _gains_s(self, board: Board, session: Session, source: Worker) -> list[float]:
        """Γ of moving it to each of those with room; 0 to where it is."""
        free = board.vacancies(session)
        slowest = [w for w in heapq.nlargest(3, board.ready, key=board.latency_s) if w is not source]
        worst_s, left_s = board.latency_s(source), board.latency_s(source, -session.weight)
        others_s = [max(board.latency_s(worker), left_s) for worker in slowest] + [left_s]
        cost_s = max(0.0, session.move_cost_s)
        gains_s = [
            gain_s(worst_s, max(others_s[w is slowest[0]], with_it_s), self.eta, cost_s)
            for w, with_it_s in zip(free.workers, free.latencies_s, strict=True)
        ]
        if (place := free.place_of(board.index(source.worker))) is not None:
            gains_s[place] = 0.0
        return gains_s
