"""Ours: never more than keep up, queued fairly, moved only where that pays.

A resume is placed for free, so most of the balance comes from there. Moves serve drains and sessions beyond
capacity, and the worst latency when the least possible one is so much lower that it pays for *all* the
moves it takes: of several workers that are equally bad, emptying one gains nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter

import msgspec

from services.placement.policies.board import Board
from services.placement.policies.least_loaded import empty_draining
from services.placement.policies.view import Decision, Memory, Refuse, Session, View, Worker


class Turboserve(msgspec.Struct, frozen=True, tag="turboserve"):
    """`eta`: weight of the moves' cost. `balance`: whether moves may serve latency. `admit`: queue what is
    beyond capacity, instead of letting everybody get slower. `longest_wait_s`: a session that would wait
    longer is refused (None: never). `stay_s`: how long a session must have been active before it is moved
    for latency's sake.
    """

    eta: float = 1.0
    balance: bool = True
    admit: bool = True
    longest_wait_s: float | None = None
    patience_s: float = 1.5
    drain_patience_s: float = 3.0

    def decide(self, view: View, memory: Memory) -> Decision:
        board = Board(view)
        waiting = self._place(board)
        empty_draining(board, self.drain_patience_s)
        memory = self._balance(board, memory) if self.balance else memory
        return board.decision(memory, self._refuse(board, waiting))

    def _place(self, board: Board) -> list[Session]:
        """Who still waits, in the order of their turns: by priority, then the tenant with the fewest
        active.
        """
        share: dict[tuple[int, str], int] = {}
        for sessions in board.here.values():
            for session in sessions:
                key = session.priority, session.tenant
                share[key] = share.get(key, 0) + 1
        turns = [
            (-s.priority, share.get((s.priority, s.tenant), 0), n, s) for n, s in enumerate(board.waiting)
        ]
        heapq.heapify(turns)
        waiting: list[Session] = []
        while turns:
            _, then, number, session = heapq.heappop(turns)
            key = session.priority, session.tenant
            if share.get(key, 0) > then:
                heapq.heappush(turns, (-session.priority, share[key], number, session))
            elif (worker := self._best(board, session)) is not None:
                share[key] = then + 1
                board.place(session, worker, self._why(board, session, worker))
            else:
                waiting.append(session)
        return waiting

    def _best(self, board: Board, session: Session) -> Worker | None:
        """The quickest with it, what being away from its state costs spread over a spell's chunks; among
        equals the cheapest, then where its state is.
        """
        free = board.free(session) or ([] if self.admit else board.free(session, beyond=True))
        away_s = self.eta * session.away_cost_s * board.view.chunk_s / board.view.spell_s
        return min(
            free,
            key=lambda w: (
                board.latency_s(w, 1) + (0.0 if w.worker == session.home else away_s),
                w.price_per_s / max(w.capacity, 1),
                w.worker != session.home,
            ),
            default=None,
        )

    def _why(self, board: Board, session: Session, worker: Worker) -> str:
        place = "where its state is" if worker.worker == session.home else "the quickest with it"
        return f"{place}: {board.latency_s(worker) * 1000:.0f} ms a chunk"

    def _balance(self, board: Board, memory: Memory) -> Memory:
        """All the moves to the least possible worst latency, or none."""
        worst_s = max(map(board.latency_s, board.ready), default=0.0)
        least_s = least_worst_s(board)
        if worst_s <= least_s:
            return Memory()
        uneven_s = board.view.now_s if memory.uneven_s is None else memory.uneven_s
        moves = self._moves_to(board, least_s)
        chunks = board.view.spell_s / board.view.chunk_s
        cost_s = self.eta * sum(session.move_cost_s for session, _, _ in moves)
        waited_s = board.view.now_s - uneven_s
        if (worst_s - least_s) * chunks > cost_s and waited_s >= self.patience_s * len(moves):
            reason = f"worst latency {worst_s:.3f} s, could be {least_s:.3f} s"
            for session, source, target in moves:
                board.move(session, source, target, reason)
        return Memory(uneven_s=uneven_s)

    def _moves_to(self, board: Board, least_s: float) -> list[tuple[Session, Worker, Worker]]:
        """Off every worker above `least_s`, onto those that stay within it; empty if not all can go."""
        room = [
            target
            for target in sorted(board.ready, key=board.latency_s)
            for n in range(1, target.capacity - board.load(target) + 1)
            if board.latency_s(target, n) <= least_s
        ]
        moves: list[tuple[Session, Worker, Worker]] = []
        for source in board.ready:
            loads = range(board.load(source) + 1)
            excess = next((n for n in loads if board.latency_s(source, -n) <= least_s), board.load(source))
            for session in self._movable(board, source)[:excess]:
                target = next((w for w in room if w.group == session.group), None)
                if target is None:
                    return []
                room.remove(target)
                moves.append((session, source, target))
                excess -= 1
            if excess:
                return []
        return moves

    def _movable(self, board: Board, source: Worker) -> list[Session]:
        """Cheapest first, then who has been active longest: likely to stay so."""
        return sorted(board.here[source.worker], key=lambda s: (s.move_cost_s, s.since_s, s.session))

    def _refuse(self, board: Board, waiting: list[Session]) -> list[Session]:
        """Of new sessions those whose turn would come too late. One that was admitted is never refused."""
        if self.longest_wait_s is None or board.view.freed_per_s <= 0.0:
            return waiting
        kept: list[Session] = []
        for session in waiting:
            wait_s = (len(kept) + 1) / board.view.freed_per_s
            if wait_s > self.longest_wait_s and not session.home:
                board.acts.append(Refuse(session.session, wait_s, f"its turn would come in {wait_s:.0f} s"))
            else:
                kept.append(session)
        return kept


def least_worst_s(board: Board) -> float:
    """The least worst latency of the sessions that are on ready workers, whatever moves it took."""
    by_group: dict[str, list[Worker]] = {}
    for worker in board.ready:
        by_group.setdefault(worker.group, []).append(worker)
    return max((_least_of(board, workers) for workers in by_group.values()), default=0.0)


def _least_of(board: Board, workers: list[Worker]) -> float:
    """Filled where it hurts least: the n-th smallest of all their latencies with 1, 2, … sessions."""
    sessions = sum(map(board.load, workers))
    if not sessions:
        return 0.0
    alike = Counter(worker.latency_s for worker in workers)
    steps = sorted((value, count) for curve, count in alike.items() for value in curve[1:])
    for value, count in steps:
        sessions -= count
        if sessions <= 0:
            return value
    return 0.0
