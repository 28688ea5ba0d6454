"""`test_moves` with placement's own deciding files, and a placement that is started anew.

Deaths are rarer here: most stories must go without one, or a move is never lost in the ways that matter.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.simulation.move_world import WORKERS, Worker, World
from tests.simulation.row_placement import RowPlacement
from tests.simulation.test_moves import A_WORKER, Moves


class RowMoves(Moves):
    placement: RowPlacement  # type: ignore[assignment]

    @initialize()
    def start(self) -> None:
        self.world = World()
        self.workers = {name: Worker(name, self.world) for name in WORKERS}
        self.placement = RowPlacement(self.world)
        for worker in self.workers.values():
            self.placement.hear(worker.report())
        self.placement.round()
        self.deliver_all()
        self.chunks(2)

    @precondition(lambda self: self.placement.move is not None)
    @rule(really=st.integers(0, 9))
    def departure(self, really: int) -> None:
        """Rarely: it ends the story."""
        if really == 9:
            self.placement.close()
            self.placement.round()

    @precondition(lambda self: self.placement.move is not None)
    @rule(paused=st.booleans())
    def up_to_the_arrival(self, paused: bool) -> None:
        """Where everything is undecided: the target has the state, and nobody knows yet."""
        self.placement.paused = paused
        for _ in range(40):
            move = self.placement.move
            target = self.workers[move.target].target if move is not None else None
            if move is None or (target is not None and target.phase == "proving"):
                return
            if self.world.network:
                self.deliver(*self.world.network.pop(0))
            elif self.world.transfers:
                self.land()
            else:
                self.chunks(1)
                self.pass_time(0.02)

    @precondition(lambda self: self.placement.move is None and self.placement.owner)
    @rule(other=st.integers(0, 1), pauses=st.booleans())
    def resume_elsewhere(self, other: int, pauses: bool) -> None:
        """Mostly of one that had time to pause."""
        if pauses:
            self.placement.paused = True
            self.a_while_without_trouble(steps=12, slow=None)
        if self.placement.owner:
            self.placement.resume_at([name for name in WORKERS if name != self.placement.owner][other])

    @rule(worker=A_WORKER, how=st.sampled_from(["killed", "started anew", "stopped", *["goes on"] * 9]))
    def fate(self, worker: str, how: str) -> None:
        super().fate(worker, how)

    @rule(really=st.integers(0, 7))
    def placement_restarts(self, really: int) -> None:
        if really == 7:
            self.placement.restart()


TestRowMoves = RowMoves.TestCase
pytest.mark.timeout(300)(TestRowMoves)  # a failure takes a while to become the shortest one
TestRowMoves.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
