"""What takes long before a chunk can begin: a lost state rebuilt from its latents, a new prompt's keys and
values. It is done piece by piece, with errands and others' steps in between.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.worker import metrics
from services.worker.again import APPEND_S, Costs, Work
from services.worker.copies import Copy, prompt_of
from services.worker.crossings import Crossings
from services.worker.models.in_pieces import InPieces
from services.worker.models.protocol import State
from services.worker.orders import Order
from services.worker.plan_batch import Candidate
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.states import States
from services.worker.stepper import Stepper
from services.worker.yielding import piece_first

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Job:
    """For chunk `index` of a copy. `past`: of how many chunks its state is rebuilt; 0: a prompt is taken into
    the one it has. `text`: keeps the prompt's embedding in the model's reach, whatever its copy gets
    meanwhile. `spent_s`: on its pieces; `put_off_s`: on others' steps between them.
    """

    copy: Copy
    generation: int
    index: int
    prompt: str
    rung: str
    text: object
    past: int
    pieces: InPieces[State | None]
    begun_at: float = field(default_factory=time.perf_counter)
    rested_at: float = field(default_factory=time.perf_counter)
    spent_s: float = 0.0
    put_off_s: float = 0.0

    @property
    def void(self) -> bool:
        """Nobody wants what it makes. A move takes the state as it is, and so does another prompt."""
        copy = self.copy
        if copy.gone or copy.ended or copy.generation != self.generation:
            return True
        return not self.past and (copy.leaving or not copy.playable or _prompt(copy) != self.prompt)


@dataclass(slots=True)
class Preparing:
    """The engine's, on its thread. One job at a time; its copy begins no chunk before it is over, nor does
    another one that needs a job. `fail`: a copy can't go on.
    """

    runner: Runner
    states: States
    roster: Roster
    costs: Costs
    stepper: Stepper
    crossings: Crossings
    fail: Callable[[Copy, Exception], None]
    job: Job | None = None
    _given_up: tuple[int, int] = (-1, -1)
    """The copy's key and the chunk of the last prompt that wasn't taken to its end."""

    def comes_before(self, order: Order) -> bool:
        """Whether something has to be done before this chunk; it has begun if nothing else is under way.
        Raises `NoRoom`.
        """
        copy = order.copy
        lost = bool(order.past) and copy not in self.states.shelf.kept
        if not lost and not self._lacks(copy, order.prompt, order.index):
            return False
        if self.job is not None:
            return lost or self._has_time(self.job, order.rung, order.needed_at)
        if lost:
            self._begin_rebuild(order)
        else:
            self.take_prompt(copy, order.prompt, order.rung, order.text, order.index)
        return True

    def holds(self, copy: Copy, waiting: Candidate) -> bool:
        """`waiting`: the copy as planning sees it."""
        if self.job is None or waiting.stepping:
            return False
        if copy is self.job.copy or (copy.past and copy not in self.states.shelf.kept):
            return True
        lacks = self._lacks(copy, _prompt(copy), copy.next_chunk)
        return lacks and self._has_time(self.job, waiting.rung, waiting.needed_at)

    def _has_time(self, job: Job, rung: str, needed_at: float) -> bool:
        """Whether a prompt that is taken after the job is taken in time. Else it is its chunk's own."""
        costs = self.costs
        own_s = costs.again_s(rung) + costs.after_s + APPEND_S
        return time.monotonic() + self._rest_s(job) + own_s <= needed_at

    def _rest_s(self, job: Job) -> float:
        whole_s = self.costs.rebuild_s(job.rung) if job.past else self.costs.prompt_s(job.rung)
        return max(0.0, whole_s - job.spent_s)

    def _lacks(self, copy: Copy, prompt: str, index: int) -> bool:
        """Whether its prompt is to be taken before that chunk begins. Once given up it is the chunk's own."""
        runner = self.runner
        divides = runner.takes_prompts_ahead and runner.works_in_pieces
        return divides and self._given_up != (copy.key, index) and self.states.lacks_prompt(copy, prompt)

    def _begin_rebuild(self, order: Order) -> None:
        copy = order.copy
        pieces = self.runner.rebuild_in_pieces(order.seed, order.prompt, order.past)
        self.states.claim(copy)
        told = (order.index, order.prompt, order.rung, order.text, len(order.past))
        self._begin(Job(copy, order.generation, *told, pieces))

    def take_prompt(self, copy: Copy, prompt: str, rung: str, text: object, index: int) -> None:
        """Of a state that lacks it, for that chunk. No job is under way."""
        try:
            pieces = self.states.take_prompt(copy, prompt, rung)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self.fail(copy, error)
            return
        self._begin(Job(copy, copy.generation, index, prompt, rung, text, 0, pieces))

    def _begin(self, job: Job) -> None:
        self.job, self.states.shelf.preparing = job, job.copy

    def is_next(self, waiting: Candidate | None, others: Sequence[Work], now: float) -> bool:
        """Whether its next piece comes before steps of others. `waiting`: the most urgent copy whose chunk
        could begin but for the job, which is another's if its own doesn't want one now.
        """
        job, costs = self.job, self.costs
        assert job is not None
        rest_s = self._rest_s(job) + costs.chunk_s(job.rung)
        put_off_s = job.put_off_s + time.perf_counter() - job.rested_at
        mine = None if waiting is None else Work(waiting.needed_at, waiting.key, rest_s)
        return piece_first(mine, others, put_off_s, now, costs.after_s + APPEND_S)

    def go_on(self) -> None:
        """One piece."""
        job, made = self.job, list[Any]()
        if job is None or self.forget():
            return

        def work() -> None:
            try:
                next(job.pieces)
            except StopIteration as end:
                made.append(end.value)

        job.put_off_s += time.perf_counter() - job.rested_at
        self.crossings.at_piece = job.copy
        try:
            job.spent_s += self.stepper.piece(work)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self._fail(job, error)
        else:
            if made:
                self._end(job, made[0])
        finally:
            self.crossings.at_piece = None
            job.rested_at = time.perf_counter()

    def forget(self) -> bool:
        """If nobody wants what is made: give it up, at any time."""
        if self.job is None or not self.job.void:
            return False
        self.give_up()
        return True

    def give_up(self) -> None:
        """A state half rebuilt is gone; one with a prompt half taken is as good as before."""
        job, self.job, self.states.shelf.preparing = self.job, None, None
        if job is None:
            return
        job.pieces.close()
        if job.past:
            self.states.tiers.unclaim()
        else:
            self._given_up = (job.copy.key, job.index)

    def _end(self, job: Job, made: State | None) -> None:
        copy, self.job, self.states.shelf.preparing = job.copy, None, None
        if not job.past:
            self.states.prompt_taken(copy)
            self.costs.learn_prompt(job.rung, job.spent_s)
            return
        self.states.keep(copy, job.generation, job.prompt, made)
        self.costs.learn_rebuild(job.spent_s)
        metrics.tier_seconds.labels("rebuild").observe(job.spent_s)
        took_s = time.perf_counter() - job.begun_at
        text = (
            "rebuilt from the latents of %d chunks in %.2f s, %.2f s of them others', going on with chunk %d"
        )
        logger.info(text, job.past, took_s, job.put_off_s, job.index, extra={"session": copy.session})

    def _fail(self, job: Job, error: Exception) -> None:
        """A picture that can't be rebuilt begins anew."""
        self.give_up()
        if job.past:
            logger.error("not rebuilt, beginning anew", exc_info=error, extra={"session": job.copy.session})
            traceback.clear_frames(error.__traceback__)  # its place is free though somebody keeps the error
            self.roster.found(job.copy, job.generation, ())
        else:
            self.fail(job.copy, error)


def _prompt(copy: Copy) -> str:
    return prompt_of((copy.shows or copy.own).inputs)
