"""What planning sees of a copy, and the order for its next chunk. The roster's lock is held by who calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.worker import pacing
from services.worker.copies import Copy, prompt_of
from services.worker.models.protocol import PastChunk
from services.worker.plan_batch import Candidate
from shared.contracts.moves import UnderWay
from shared.contracts.session import Input


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """One chunk to make, as the copy stood when it began."""

    copy: Copy
    generation: int
    index: int
    seed: int
    inputs: list[Input]
    inputs_version: int
    text: object
    rung: str
    traceparent: str
    needed_at: float
    due_to_start_s: float
    past: tuple[PastChunk, ...] = ()

    @property
    def prompt(self) -> str:
        return prompt_of(self.inputs)

    @property
    def stale(self) -> bool:
        """Whether its copy was dropped, ended or begun anew meanwhile."""
        return self.copy.gone or bool(self.copy.ended) or self.copy.generation != self.generation


def candidate(copy: Copy, stepping: Order | None, chunk_duration_s: float, *, shown: bool) -> Candidate:
    """`stepping`: the order of its chunk under way, if one is; `shown`: its pictures were handed on, so what
    is left of it is needed for the next one, unless a move waits for it.
    """
    held = copy.own.paused or bool(copy.ended) or not copy.located or copy.frozen
    held = held or copy.shows is None or copy.arriving
    due_itself = copy.frozen or not shown
    return Candidate(
        copy.key,
        stepping is not None,
        held or copy.seeking,
        copy.next_chunk,
        copy.next_chunk - copy.next_append,
        copy.granted_through,
        stepping.needed_at if due_itself and stepping else _needed_at(copy, chunk_duration_s),
        copy.own.max_chunks,
        stepping.rung if stepping else copy.own.rung,
    )


def begin(copy: Copy, chunk_duration_s: float, now: float) -> Order:
    """The copy's next chunk begins."""
    own, shows, index = copy.own, copy.shows or copy.own, copy.next_chunk
    due_at = pacing.due_at(copy.appended_at, copy.credit_at, copy.input_at)
    order = Order(
        copy,
        copy.generation,
        index,
        own.seed,
        shows.inputs,
        shows.inputs_version,
        copy.text,
        own.rung,
        own.traceparent,
        _needed_at(copy, chunk_duration_s),
        max(0.0, now - due_at) if copy.next_append == index else 0.0,
        copy.past,
    )
    copy.past = ()
    copy.next_chunk, copy.used_at = index + 1, now
    return order


def again(order: Order) -> Order:
    """The same chunk, begun again as its copy stands now."""
    copy = order.copy
    shows = copy.shows or copy.own
    return replace(order, inputs=shows.inputs, inputs_version=shows.inputs_version, text=copy.text)


def taken_over(copy: Copy, index: int, told: UnderWay, now: float) -> Order:
    """Of a copy that came: its state has what the prompt's embedding was needed for."""
    return Order(
        copy,
        copy.generation,
        index,
        copy.own.seed,
        told.inputs,
        told.inputs_version,
        text=None,
        rung=told.rung,
        traceparent=told.traceparent,
        needed_at=now + told.needed_in_s,
        due_to_start_s=told.due_to_start_s,
    )


def _needed_at(copy: Copy, chunk_duration_s: float) -> float:
    return pacing.needed_at(copy.granted_at, copy.granted_through, copy.next_chunk, chunk_duration_s)
