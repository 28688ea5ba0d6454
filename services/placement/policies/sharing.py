"""Beyond capacity, where an operator allows it: who has waited for a while shares a worker, and everybody
there gets slower, until there is room elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.placement.policies.board import Board
from services.placement.policies.view import Session, Worker

_ROUNDING = 1e-9


def share(board: Board, waiting: Sequence[Session], after_s: float) -> list[Session]:
    """Those who have waited for `after_s` go where a chunk is quickest with them, up to the workers' slots.
    Returns who still waits.
    """
    left: list[Session] = []
    for session in waiting:
        waited_s = board.view.now_s - session.since_s
        free = board.vacancies(session, beyond=True) if waited_s >= after_s else None
        if free is None or not free.workers:
            left.append(session)
            continue
        worker = free.workers[free.latencies_s.index(min(free.latencies_s))]
        board.place(session, worker, f"has waited for {waited_s:.1f} s: shares beyond capacity")
    return left


def relieve(board: Board, best: Callable[[Session], Worker | None]) -> None:
    """Who came last to a worker above its capacity goes where there is room within it and a chunk takes no
    longer.
    """
    for source in board.ready:
        if board.loads[source.worker] <= source.capacity + _ROUNDING:
            continue
        for session in sorted(board.here(source.worker), key=lambda s: (-s.since_s, s.session)):
            target = best(session)
            if target is not None and board.latency_s(target, session.weight) <= board.latency_s(source):
                board.move(session, source, target, "there is room for it elsewhere")
            if board.loads[source.worker] <= source.capacity + _ROUNDING:
                break
