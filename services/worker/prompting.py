"""New prompts of copies whose next chunk may not begin yet: what they cost is done while nothing else is to
do, and that chunk is there so much sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.worker.again import Costs
from services.worker.copies import Copy, prompt_of
from services.worker.plan_batch import may_begin
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.states import States


@dataclass(slots=True)
class Prompting:
    """The engine's, on its thread. `fail`: the model couldn't."""

    runner: Runner
    states: States
    roster: Roster
    costs: Costs
    fail: Callable[[Copy, Exception], None]

    def take_one(self) -> None:
        """With no chunk under way. A chunk that may begin comes first, and so does a move: neither waits."""
        if not self.runner.takes_prompts_ahead or (waiting := self._waiting()) is None:
            return
        copy, prompt, rung = waiting
        started = time.perf_counter()
        try:
            self.states.take_prompt(copy, prompt, rung)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self.fail(copy, error)
        else:
            self.costs.learn_prompt(rung, time.perf_counter() - started)

    def _waiting(self) -> tuple[Copy, str, str] | None:
        """A copy with the prompt that its state doesn't stand for yet, and its rung."""
        with self.roster.changed:
            copies = self.roster.copies()
            moving = any(copy.arriving or copy.leaving for copy in copies)
            if moving or any(may_begin(self.roster.candidate(copy, None)) for copy in copies):
                return None
            for copy in copies:
                if not copy.playable or copy.shows is None:
                    continue
                prompt = prompt_of(copy.shows.inputs)
                if prompt and self.states.lacks_prompt(copy, prompt):
                    return copy, prompt, copy.own.rung
        return None
