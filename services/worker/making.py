"""One chunk on its way through the worker: while it is made, and as it goes to the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from services.worker import metrics
from services.worker.encode import Frames, Media
from services.worker.models.protocol import ModelSpec, PastChunk, State
from services.worker.orders import Order
from shared import telemetry
from shared.contracts.fleet import Own
from shared.contracts.moves import UnderWay
from shared.contracts.stream import Chunk, ChunkTimings


@dataclass(slots=True)
class Making:
    """A chunk under way on the device. `steps`: of all of it, as it was (last) begun. `new_prompt`: the first
    of them begins a new one. `forward_s`: all steps so far, those before it was begun `again` too.

    `shown`: its pictures were handed on, though steps may be left. From then until the last of them the log
    may have the chunk already, and its copy is neither begun again nor handed to another worker: what is left
    to do belongs to the chunk that its viewers see.
    """

    order: Order
    state: State
    span: Span
    new_prompt: bool = False
    steps: int = 0
    steps_left: int = 0
    forward_s: float = 0.0
    again: bool = False
    shown: bool = False

    @property
    def inputs_fixed(self) -> bool:
        """Whether a prompt that comes now shows in the next chunk at the earliest."""
        return self.shown or self.again or self.order.stale

    def stepped(self, step_s: float) -> None:
        """It was stepped once more."""
        if self.shown:
            metrics.stage_seconds.labels("settle").observe(step_s)
        self.forward_s += step_s
        self.steps_left -= 1

    @property
    def parked(self) -> bool:
        """Whether it is to be left as it is: its copy leaves from this boundary, or is on its way here."""
        copy = self.order.copy
        return copy.arriving or (copy.frozen and copy.boundary_told)

    @property
    def may_leave(self) -> bool:
        """Whether its copy is at a boundary, unless the device is at a step of it."""
        return not self.shown and not self.order.copy.again and 0 < self.steps_left < self.steps


class Pictured(NamedTuple):
    """A chunk whose pictures were told to come. `frames` waits for them. `since`: when they were told, by
    `perf_counter`. `latents`: its own, where they are kept. Its state may be stepped further, or be gone.
    """

    order: Order
    span: Span
    frames: Callable[[], Frames]
    since: float
    forward_s: float
    latents: PastChunk | None


def told(chunk: Making, now: float) -> UnderWay:
    """Of a copy that leaves."""
    order = chunk.order
    return UnderWay(
        order.rung,
        order.inputs,
        order.inputs_version,
        order.traceparent,
        chunk.steps,
        chunk.steps_left,
        order.needed_at - now,
        order.due_to_start_s,
        chunk.forward_s,
        chunk.new_prompt,
        chunk.again,
    )


def taken_over(order: Order, state: State, told: UnderWay) -> Making:
    """A chunk that came by a move."""
    return Making(
        order,
        state,
        span_of(order),
        told.new_prompt,
        told.steps,
        told.steps_left,
        told.forward_s,
        told.again,
    )


def span_of(order: Order) -> Span:
    """All that is done for the chunk, from its first step to its append."""
    return telemetry.tracer.start_span(
        "worker.chunk",
        context=Context(),
        links=telemetry.session_links(order.traceparent),
        attributes={"session": order.copy.session, "index": order.index},
    )


class Made(NamedTuple):
    """An encoded chunk on its way to the log."""

    order: Order
    media: Media
    timings: ChunkTimings
    span: Span
    latents: PastChunk | None = None

    def chunk(self, own: Own, spec: ModelSpec, worker: str, span: Span) -> Chunk:
        """As it stands in the log. `span`: what viewers' traces link to."""
        order = self.order
        return Chunk(
            session=own.session,
            index=order.index,
            epoch=own.epoch,
            worker=worker,
            frames=self.media.frames,
            fps=spec.fps,
            width=spec.width,
            height=spec.height,
            codec=self.media.codec,
            media=self.media.data,
            inputs_version=order.inputs_version,
            inputs=order.inputs,
            rung=order.rung or spec.rungs[0].name,
            timings=self.timings,
            traceparent=telemetry.traceparent(trace.set_span_in_context(span)),
        )
