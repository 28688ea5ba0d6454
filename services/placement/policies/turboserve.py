"""Ours: never more than keep up, queued fairly, moved only where that pays.

A resume is placed for free, so most of the balance comes from there, and sessions share a worker with those
whose chunks fall due at other moments. Moves serve drains, and the worst latency when the least possible one
is so much lower that it pays for all the moves it takes.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

import msgspec

from services.placement.policies.balance import least_worst_s, moves_to, tempo_of, untangled
from services.placement.policies.beats import Fit, fit
from services.placement.policies.board import Board
from services.placement.policies.sharing import relieve, share
from services.placement.policies.stepping import could_make_room, make_room, step_up
from services.placement.policies.vacancies import Vacancies
from services.placement.policies.view import Decision, Memory, Refuse, Session, View, Worker

_EQUAL = 1.02
"""Predicted latencies this near are told apart by nothing."""
_MOST_TRIED = 128
"""Of equals: among so many beats there is one that fits."""
_SHARE = attrgetter("priority", "tenant")


class Turboserve(msgspec.Struct, frozen=True, tag="turboserve"):
    """`eta`: weight of the moves' cost. `balance`: whether moves may serve latency. `share_s`: how long one
    waits for a place within capacity until it shares a worker beyond it, where everybody gets slower (None:
    it queues, and running sessions keep their cadence). `longest_wait_s`: a session that would wait longer is
    refused (None: never). `patience_s`: how long, for each move that it takes, the load must have been
    uneven; `settle_s`: how long the fleet must have stayed as it is (0: no worker boots; None: whatever
    boots). `drain_patience_s`: how long sessions may go on where a worker drains. `beats`: mind when chunks
    fall due. `untangle_s`: how long two sessions in each other's way must have been active until one is
    moved (None: never). `step_down_s`: how long one must have waited until others, where their operator
    allows it, step down for it; `step_up_s`: how long there must have been room for all before they step up.
    """

    eta: float = 1.0
    balance: bool = True
    share_s: float | None = None
    longest_wait_s: float | None = None
    patience_s: float = 1.5
    settle_s: float | None = 60.0
    drain_patience_s: float = 3.0
    beats: bool = True
    untangle_s: float | None = 30.0
    step_down_s: float = 1.0
    step_up_s: float = 10.0

    def decide(self, view: View, memory: Memory) -> Decision:
        board = Board(view)
        waiting = make_room(board, self._place(board), self.step_down_s)
        if self.share_s is not None:
            waiting = share(board, waiting, self.share_s)
        memory = step_up(board, waiting, memory, self.step_up_s)
        self._empty_draining(board)
        relieve(board, lambda session: self._best(board, session))
        if self.balance:
            memory = self._balance(board, memory)
            self._untangle(board)
        return board.decision(memory, self._refuse(board, waiting))

    def _place(self, board: Board) -> list[Session]:
        """Who still waits, in the order of their turns: by priority, then the tenant with the fewest
        active.
        """
        if not board.waiting:
            return []
        share = Counter(map(_SHARE, board.placed))
        turns = [
            (-s.priority, share.get((s.priority, s.tenant), 0), n, s) for n, s in enumerate(board.waiting)
        ]
        heapq.heapify(turns)
        waiting: list[Session] = []
        full: set[tuple[str, float]] = set()
        while turns:
            _, then, number, session = heapq.heappop(turns)
            key = session.priority, session.tenant
            if share.get(key, 0) > then:
                heapq.heappush(turns, (-session.priority, share[key], number, session))
            elif (session.group, session.weight) in full:
                waiting.append(session)
            elif (worker := self._best(board, session)) is not None:
                share[key] = then + 1
                reason = self._why(board, session, worker)
                beat_s = self._fit(board, session, worker).beat_s
                board.place(msgspec.structs.replace(session, beat_s=beat_s), worker, reason)
            else:
                full.add((session.group, session.weight))
                waiting.append(session)
        return waiting

    def _best(self, board: Board, session: Session) -> Worker | None:
        """The quickest with it, what being away from its state costs spread over a spell's chunks; among
        equals the cheapest, then where its chunks are least in others' way, then where its state is.
        """
        free = board.vacancies(session)
        if not free.workers:
            return None
        expected = self._expected(board, session, free)
        least_s = min(expected)
        told = zip(expected, free.prices, strict=True)
        most = min([price for latency_s, price in told if latency_s == least_s], default=math.inf)
        equal_s = least_s * _EQUAL
        told = zip(expected, free.prices, strict=True)
        near = [
            w
            for w, (latency_s, price) in zip(free.workers, told, strict=True)
            if latency_s <= equal_s and price <= most
        ]
        near = sorted(near or free.workers, key=lambda w: w.worker != session.home)[:_MOST_TRIED]
        return self._least_harm(board, session, near)

    def _expected(self, board: Board, session: Session, free: Vacancies) -> Sequence[float]:
        """A chunk's latency with it, on each."""
        view = board.view
        away_s = self.eta * session.away_cost_s * view.chunk_s / view.spell_s
        if away_s == 0.0:
            return free.latencies_s
        expected = [latency_s + away_s for latency_s in free.latencies_s]
        if (home := free.place_of(board.index(session.home))) is not None:
            expected[home] = free.latencies_s[home]
        return expected

    def _least_harm(self, board: Board, session: Session, near: Sequence[Worker]) -> Worker:
        """The first of them without any, else with the least."""
        best, least = near[0], math.inf
        for worker in near:
            harm = self._harm(board, session, worker)
            if harm < least:
                best, least = worker, harm
            if harm <= 0.0:
                break
        return best

    def _harm(self, board: Board, session: Session, worker: Worker) -> float:
        if not self.beats or not board.counts[worker.worker]:
            return 0.0
        return self._fit(board, session, worker).harm

    def _fit(self, board: Board, session: Session, worker: Worker) -> Fit:
        view = board.view
        begin_s = view.now_s + view.start_s
        if worker.worker != session.home:
            begin_s += session.away_cost_s
        if session.beat_s is not None:
            begin_s = max(begin_s, session.beat_s - view.chunk_s)
        return fit(board.beats(worker.worker), begin_s, session.beat_s, tempo_of(board, worker))

    def _why(self, board: Board, session: Session, worker: Worker) -> str:
        place = "where its state is" if worker.worker == session.home else "the quickest with it"
        return f"{place}: {board.latency_s(worker, session.weight) * 1000:.0f} ms a chunk"

    def _balance(self, board: Board, memory: Memory) -> Memory:
        """All the moves to the least possible worst latency, or none; and none in a fleet that has just
        changed or is about to, which mends most of it for nothing.
        """
        if self._unsettled(board):
            return msgspec.structs.replace(memory, uneven_s=None)
        worst_s = max(board.now_s(), default=0.0)
        least_s = least_worst_s(board)
        if worst_s <= least_s:
            return msgspec.structs.replace(memory, uneven_s=None)
        uneven_s = board.view.now_s if memory.uneven_s is None else min(memory.uneven_s, board.view.now_s)
        waited_s = board.view.now_s - uneven_s
        moves = moves_to(board, least_s, lambda count: waited_s >= self.patience_s * count)
        chunks = board.view.spell_s / board.view.chunk_s
        cost_s = self.eta * sum(session.move_cost_s for session, _, _ in moves)
        if (worst_s - least_s) * chunks > cost_s:
            reason = f"worst latency {worst_s:.3f} s, could be {least_s:.3f} s"
            for session, source, target in moves:
                board.move(session, source, target, reason)
        return msgspec.structs.replace(memory, uneven_s=uneven_s)

    def _unsettled(self, board: Board) -> bool:
        if self.settle_s is None:
            return False
        since_s = board.view.now_s - self.settle_s
        return any(w.state == "starting" or w.since_s > since_s for w in board.workers.values())

    def _empty_draining(self, board: Board) -> None:
        for source in list(board.workers.values()):
            if source.state != "draining" or board.view.now_s - source.since_s < self.drain_patience_s:
                continue
            for session in list(board.here(source.worker)):
                if (target := self._best(board, session)) is not None:
                    board.move(session, source, target, "its worker is drained")

    def _untangle(self, board: Board) -> None:
        """At most one a decision."""
        if self.beats and self.untangle_s is not None:
            planned = untangled(board, self.untangle_s)
            if planned is not None:
                board.move(*planned, "its chunks fell due together with another's")

    def _refuse(self, board: Board, waiting: list[Session]) -> list[Session]:
        """Of new sessions those whose turn would come too late, unless others can step down for them. One
        that was admitted is never refused.
        """
        if self.longest_wait_s is None or board.view.freed_per_s <= 0.0:
            return waiting
        kept: list[Session] = []
        for session in waiting:
            wait_s = (len(kept) + 1) / board.view.freed_per_s
            late = wait_s > self.longest_wait_s and not session.home
            if late and not could_make_room(board, session):
                board.acts.append(Refuse(session.session, wait_s, f"its turn would come in {wait_s:.0f} s"))
            else:
                kept.append(session)
        return kept
