"""Chunks under way that are begun again, so that a prompt shows that came meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, field

from services.worker.again import APPEND_S, NEVER, Costs, Work, latest
from services.worker.copies import Copy
from services.worker.curve import Curve
from services.worker.making import Making
from services.worker.plan_batch import Candidate, may_begin
from services.worker.runner import Runner


@dataclass(slots=True)
class Restarting:
    """The engine's, on its thread. `curves`: by rung."""

    runner: InitVar[Runner]
    curves: InitVar[Mapping[str, Curve]]
    costs: Costs = field(init=False)

    def __post_init__(self, runner: Runner, curves: Mapping[str, Curve]) -> None:
        last = 0 if runner.shows_early else 1
        rungs = {"": runner.spec.rungs[0]} | {rung.name: rung for rung in runner.spec.rungs}
        self.costs = Costs(curves, {name: rung.steps + last for name, rung in rungs.items()})

    def say_until_when(
        self,
        candidates: Sequence[Candidate],
        chunks: Mapping[Copy, Making],
        chosen: Collection[Copy],
        idle_s: float = 0.0,
    ) -> None:
        """Before a step: until when a prompt that comes shows in a chunk of `chunks`, those under way, or of
        `chosen`, whose step this is. `idle_s`: for so long no step begins. The roster's lock is held.
        """
        wanted = [c for c in candidates if c.stepping or may_begin(c)]
        works = self.works(wanted, chunks)
        step_s = max((self.costs.step_s(candidate.rung) for candidate in wanted), default=0.0)
        until = latest(works, max(step_s, idle_s), self.costs.after_s + APPEND_S)
        for copy in {*chunks, *chosen}:
            fixed = copy.frozen or (copy in chunks and chunks[copy].inputs_fixed)
            copy.again_until = NEVER if fixed else until.get(copy.key, NEVER)

    def works(self, candidates: Sequence[Candidate], chunks: Mapping[Copy, Making]) -> list[Work]:
        """Of those that are stepped or may begin."""
        under_way = {copy.key: chunk for copy, chunk in chunks.items()}
        wanted = [c for c in candidates if c.stepping or may_begin(c)]
        return [self._work(candidate, under_way.get(candidate.key)) for candidate in wanted]

    def _work(self, candidate: Candidate, chunk: Making | None) -> Work:
        """What is left of a chunk under way; all of one that may begin, or is to begin again."""
        rung = candidate.rung
        again_s = self.costs.again_s(rung)
        if chunk is None or chunk.order.copy.again:
            return Work(candidate.needed_at, candidate.key, again_s, again_s)
        left_s = chunk.steps_left * self.costs.step_s(rung)
        return Work(candidate.needed_at, candidate.key, left_s, again_s)

    def learn_step(self, chunks: Sequence[Making], step_s: float) -> None:
        """They took a step together."""
        chunk = chunks[0]
        if len(chunks) == 1 and chunk.new_prompt and chunk.steps_left == chunk.steps:
            self.costs.learn_prompt(chunk.order.rung, step_s)
