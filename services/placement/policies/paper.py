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
        free = board.free(session)
        if not free:
            return None
        worst_s = max(board.latency_s(worker) for worker in board.ready)
        after_s = {worker.worker: max(worst_s, board.latency_s(worker, 1)) for worker in free}
        tied_s = min(after_s.values()) * (1.0 + self.near_tie)
        tied = [worker for worker in free if after_s[worker.worker] <= tied_s]
        return min(tied or free, key=board.ratio)

    def _rebalance(self, board: Board) -> None:
        # Every move lowers L by more than η·κ ≥ 0, and there are finitely many placements: this ends.
        while (best := self.best_move(board)) is not None:
            source = board.workers[self._bottleneck(board).worker]
            board.move(
                best.session, source, best.target, f"lowers the worst latency, Γ = {best.gain_s:.3f} s"
            )

    def _bottleneck(self, board: Board) -> Worker:
        return max(board.ready, key=board.latency_s)

    def best_move(self, board: Board) -> Gain | None:
        """The best move off the bottleneck if its Γ is more than 0."""
        if len(board.ready) < 2:
            return None
        source = self._bottleneck(board)
        worst_s = board.latency_s(source)
        others = heapq.nlargest(3, board.ready, key=board.latency_s)
        if len(others) == 3 and board.latency_s(others[2]) >= worst_s:
            return None  # Whatever moves, a third worker stays as slow.
        best: Gain | None = None
        for session in board.here[source.worker]:
            for target in board.free(session):
                if target is source:
                    continue
                rest_s = max((board.latency_s(w) for w in others if w not in (source, target)), default=0.0)
                after_s = max(rest_s, board.latency_s(source, -1), board.latency_s(target, 1))
                gain = gain_s(worst_s, after_s, self.eta, max(0.0, session.move_cost_s))
                if gain > 0.0 and (best is None or gain > best.gain_s):
                    best = Gain(gain, session, target)
        return best
