"""New prompts of copies whose next chunk may not begin yet: what they cost is done while nothing else is to
do, and that chunk is there so much sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from services.worker.again import APPEND_S, Costs
from services.worker.copies import Copy, prompt_of
from services.worker.errands import Errands
from services.worker.plan_batch import may_begin
from services.worker.roster import Roster
from services.worker.runner import Runner, Step
from services.worker.states import States

_LOOK_S = 0.0005


class _Waiting(NamedTuple):
    """`text`: keeps the prompt's embedding in the model's reach, whatever its copy gets meanwhile."""

    copy: Copy
    prompt: str
    rung: str
    text: object


@dataclass(slots=True)
class Prompting:
    """The engine's, on its thread. Meanwhile errands are run that mind no step. `fail`: it couldn't."""

    runner: Runner
    states: States
    roster: Roster
    costs: Costs
    errands: Errands
    fail: Callable[[Copy, Exception], None]

    def take_one(self) -> None:
        """With no chunk under way. A chunk that may begin comes first, and so does a move: neither waits."""
        if not self.runner.takes_prompts_ahead or (waiting := self._waiting()) is None:
            return
        copy, prompt, rung, _ = waiting
        started = time.perf_counter()
        try:
            if (step := self.states.take_prompt(copy, prompt, rung)) is not None:
                self._await(step)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self.fail(copy, error)
        else:
            self.costs.learn_prompt(rung, time.perf_counter() - started)

    def _await(self, step: Step) -> None:
        while not step.query():
            self.errands.await_soon(_LOOK_S)
            self.errands.run_soon()
        step.synchronize()

    def _waiting(self) -> _Waiting | None:
        """The first copy whose state doesn't stand for its prompt yet. None: also where others have no time
        for that.
        """
        with self.roster.changed:
            copies = self.roster.copies()
            moving = any(copy.arriving or copy.leaving for copy in copies)
            if moving or any(may_begin(self.roster.candidate(copy, None)) for copy in copies):
                return None
            playable = [copy for copy in copies if copy.playable and copy.shows is not None]
            for copy in playable:
                prompt = prompt_of((copy.shows or copy.own).inputs)
                if prompt and self.states.lacks_prompt(copy, prompt):
                    others = (other for other in playable if other is not copy)
                    waiting = _Waiting(copy, prompt, copy.own.rung, copy.text)
                    return waiting if all(map(self._has_time, others)) else None
        return None

    def _has_time(self, copy: Copy) -> bool:
        """Whether its next chunk, wanted a moment from now, could wait for another's prompt."""
        candidate, costs = self.roster.candidate(copy, None), self.costs
        return (
            candidate.needed_at - time.monotonic() > costs.again_s(candidate.rung) + costs.after_s + APPEND_S
        )
