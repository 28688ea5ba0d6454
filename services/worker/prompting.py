"""New prompts of copies whose next chunk may not begin yet: what they cost is done while nothing else is to
do, and that chunk is there so much sooner.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from services.worker.again import APPEND_S, Costs
from services.worker.copies import Copy, prompt_of
from services.worker.plan_batch import may_begin
from services.worker.preparing import Preparing
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.states import States


@dataclass(slots=True)
class Prompting:
    """The engine's, on its thread. It begins what `preparing` does."""

    runner: Runner
    states: States
    roster: Roster
    costs: Costs
    preparing: Preparing

    def take_one(self) -> None:
        """With no chunk under way. A chunk that may begin comes first, and so does a move: neither waits."""
        if not self.runner.takes_prompts_ahead or self.preparing.job is not None:
            return
        with self.roster.changed:
            copy = self._waiting()
            if copy is None:
                return
            prompt, rung, text, index = _prompt(copy), copy.own.rung, copy.text, copy.next_chunk
        self.preparing.take_prompt(copy, prompt, rung, text, index)

    def _waiting(self) -> Copy | None:
        """The first copy whose state doesn't stand for its prompt yet. None: also where others have no time
        for that.
        """
        copies = self.roster.copies()
        moving = any(copy.arriving or copy.leaving for copy in copies)
        if moving or any(may_begin(self.roster.candidate(copy, None)) for copy in copies):
            return None
        playable = [copy for copy in copies if copy.playable and copy.shows is not None]
        for copy in playable:
            prompt = _prompt(copy)
            if prompt and self.states.lacks_prompt(copy, prompt):
                others = (other for other in playable if other is not copy)
                return copy if all(map(self._has_time, others)) else None
        return None

    def _has_time(self, copy: Copy) -> bool:
        """Whether its next chunk, wanted a moment from now, could wait for another's prompt, or a piece of
        that.
        """
        candidate, costs = self.roster.candidate(copy, None), self.costs
        again_s = costs.chunk_s(candidate.rung)
        if not self.runner.works_in_pieces:
            again_s = costs.again_s(candidate.rung)
        return candidate.needed_at - time.monotonic() > again_s + costs.after_s + APPEND_S


def _prompt(copy: Copy) -> str:
    return prompt_of((copy.shows or copy.own).inputs)
