"""The simple rules: every session goes to the least loaded worker, once for life or at every resume."""

from __future__ import annotations

import msgspec

from services.placement.policies.board import Board
from services.placement.policies.view import Decision, Memory, Session, View, Worker


def least_loaded(board: Board, session: Session) -> Worker | None:
    """By load against capacity; beyond it only when everybody is full. None: no slot is free anywhere."""
    free = board.free(session) or board.free(session, beyond=True)
    ratios = [board.ratio(worker) for worker in free]
    least = min(ratios, default=0.0)
    tied = [worker for worker, ratio in zip(free, ratios, strict=True) if ratio == least]
    return min(tied, key=lambda worker: board.latency_s(worker, 1), default=None)


class LeastLoadedForLife(msgspec.Struct, frozen=True, tag="fixed-ll"):
    """Pinned to who was least loaded at its first active moment."""

    def decide(self, view: View, memory: Memory) -> Decision:
        board = Board(view)
        waiting = [s for s in board.waiting if not place_pinned(board, s, least_loaded(board, s))]
        return board.decision(memory, waiting)


class LeastLoadedAtResume(msgspec.Struct, frozen=True, tag="ll-resume"):
    """Least loaded at every resume. It moves nothing, except off workers that are drained."""

    def decide(self, view: View, memory: Memory) -> Decision:
        board = Board(view)
        waiting = []
        for session in board.waiting:
            if (worker := least_loaded(board, session)) is None:
                waiting.append(session)
            else:
                board.place(session, worker, "the least loaded")
        empty_draining(board)
        return board.decision(memory, waiting)


def place_pinned(board: Board, session: Session, first: Worker | None) -> bool:
    """On the worker it is pinned to, however loaded, as long as that runs; else on `first`."""
    home = board.workers.get(session.home)
    worker = home if home is not None and home.state == "ready" else first
    if worker is None or board.counts[worker.worker] >= worker.slots:
        return False
    board.place(session, worker, "pinned there" if worker is home else "its first worker, for life")
    return True


def empty_draining(board: Board, patience_s: float = 0.0) -> None:
    """Move who is on a worker that has drained for `patience_s` to where there is room within capacity."""
    for source in board.view.workers:
        if source.state == "draining" and board.view.now_s - source.since_s >= patience_s:
            for session in list(board.here(source.worker)):
                if free := board.free(session):
                    board.move(session, source, min(free, key=board.ratio), "its worker is drained")
