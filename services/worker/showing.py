"""Pictures of the chunks under way: told to come once they are final, and handed to the encoder."""

from __future__ import annotations

import time
from dataclasses import dataclass

from services.worker.copies import Copy
from services.worker.encoding import Encoding
from services.worker.making import Making, Pictured
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.states import States


@dataclass(slots=True)
class Showing:
    """The engine's, on its thread. `chunks`: those under way."""

    runner: Runner
    states: States
    roster: Roster
    encoding: Encoding
    chunks: dict[Copy, Making]

    def ready(self, chunk: Making) -> bool:
        """Whether its pictures are final and haven't been handed on."""
        if chunk.shown or chunk.parked or chunk.order.stale:
            return False
        return not chunk.steps_left or self.runner.pictures_final(chunk.state)

    def show(self, chunk: Making, *, keep_latents: bool) -> None:
        """What may be done for it now. Raises `EncoderHangs`, and what the model does."""
        if self.ready(chunk) and self.roster.settle_inputs(chunk.order):
            self._hand_on(chunk, keep_latents=keep_latents)
        if chunk.shown and not chunk.steps_left:
            self._finish(chunk)

    def _hand_on(self, chunk: Making, *, keep_latents: bool) -> None:
        """Its pictures are told to come. The steps that are left are told after them, on the same stream: the
        viewers' wait for these pictures ends, and the device works on.
        """
        order, started = chunk.order, time.perf_counter()
        if not chunk.steps_left:
            self.states.copy_behind(order.copy)
        frames = self.runner.decode_later(chunk.state)
        latents = self.runner.latents(chunk.state) if keep_latents else None
        chunk.shown = True
        self.encoding.put(Pictured(order, chunk.span, frames, started, chunk.forward_s, latents))

    def _finish(self, chunk: Making) -> None:
        """The log may have it, or not yet."""
        copy = chunk.order.copy
        del self.chunks[copy]
        self.states.copy_behind(copy)
        chunk.state = None
