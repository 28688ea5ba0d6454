"""Workers take turns; a session stays where it first was."""

from __future__ import annotations

import msgspec

from services.placement.policies.board import Board
from services.placement.policies.least_loaded import place_pinned
from services.placement.policies.view import Decision, Memory, View


class RoundRobinForLife(msgspec.Struct, frozen=True, tag="fixed-rr"):
    """`memory.turn` counts the sessions placed so far."""

    def decide(self, view: View, memory: Memory) -> Decision:
        board, turn, waiting = Board(view), memory.turn, []
        for session in board.waiting:
            able = [worker for worker in board.ready if worker.group == session.group]
            first = able[turn % len(able)] if able else None
            home = board.workers.get(session.home)
            if not place_pinned(board, session, first):
                waiting.append(session)
            elif home is None or home.state != "ready":
                turn += 1
        return board.decision(Memory(turn), waiting)
