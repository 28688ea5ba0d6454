"""The worker with the most memory to spare: what a scheduler does that knows of states and not of work."""

from __future__ import annotations

from collections import Counter

import msgspec

from services.placement.policies.board import Board
from services.placement.policies.least_loaded import empty_draining
from services.placement.policies.view import Decision, Memory, View


class MemoryGreedy(msgspec.Struct, frozen=True, tag="memory-greedy"):
    """Free slots count, not sessions against capacity; states of idle sessions fill them until they leave."""

    def decide(self, view: View, memory: Memory) -> Decision:
        board = Board(view)
        held = Counter(session.worker for session in view.sessions if session.worker)
        waiting = []
        for session in board.waiting:
            free = board.free(session, beyond=True)
            if not free:
                waiting.append(session)
                continue
            worker = max(free, key=lambda w: w.slots - held[w.worker])
            held[worker.worker] += 1
            board.place(session, worker, "the most memory to spare")
        empty_draining(board)
        return board.decision(memory, waiting)
