"""The engine's part of moves: when a frozen copy is between two steps, and chunks that come with theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.worker import expecting, orders
from services.worker.copies import Copy
from services.worker.making import Making, taken_over
from services.worker.models.protocol import Counters
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.states import States
from shared.contracts.moves import HandOver


@dataclass(slots=True)
class Crossings:
    """Device thread only. `chunks`: the engine's, under way; `stepping`: those that the device is at.
    `on_boundary`: the device is at no step of a frozen copy, whose chunk under way is given; those made may
    still be on their way to the log. `on_step`: the first one of a copy that came is about to begin.
    """

    runner: Runner
    states: States
    roster: Roster
    chunks: dict[Copy, Making]
    on_boundary: Callable[[Copy, Making | None], None] = lambda _copy, _chunk: None
    on_step: Callable[[Copy], None] = lambda _: None
    stepping: Sequence[Making] = ()
    at_piece: Copy | None = None
    """The device is at a piece of long work on its state."""
    newcomers: set[Copy] = field(default_factory=set)
    """They came by a move, and no step of theirs has begun."""

    def due(self) -> list[Copy]:
        """Frozen copies of which it is still to be told, and is so now."""
        return [
            copy for copy in self.roster.transit.closing() if self._is_between(copy, self.chunks.get(copy))
        ]

    def _is_between(self, copy: Copy, chunk: Making | None) -> bool:
        if copy is self.at_piece:
            return False
        if chunk is None:
            return True
        at_it = any(chunk is each for each in self.stepping)
        return self.runner.moves_mid_chunk and chunk.may_leave and not at_it

    def tell(self) -> None:
        """Also while the device is at a step of others."""
        for copy in self.due():
            self.roster.transit.boundary_told(copy)
            self.on_boundary(copy, self.chunks.get(copy))

    def wait_s(self, now: float) -> float:
        """How long the device is to be kept free for copies that are about to arrive."""
        return expecting.wait_s([copy.expected for copy in self.roster.copies() if copy.arriving], now)

    def adopt(self, copy: Copy, counters: Counters, hand_over: HandOver) -> None:
        """Of a copy that comes; by an errand. It goes on once it has arrived."""
        state = self.states.adopt(copy, counters, hand_over.shown)
        if (under_way := hand_over.under_way) is not None:
            order = orders.taken_over(copy, hand_over.next_chunk, under_way, time.monotonic())
            self.chunks[copy] = taken_over(order, state, under_way)
        self.newcomers.add(copy)

    def begin_step(self, chunks: Sequence[Making]) -> None:
        self.stepping = chunks
        self.newcomers -= {copy for copy in self.newcomers if copy.gone}
        for copy in self.newcomers.intersection(chunk.order.copy for chunk in chunks):
            self.newcomers.discard(copy)
            self.on_step(copy)

    def end_step(self) -> None:
        self.stepping = ()
