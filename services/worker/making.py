"""One chunk on its way through the worker: while it is made, and as it goes to the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from services.worker.encode import Media
from services.worker.models.protocol import ModelSpec, PastChunk, State
from services.worker.orders import Order
from shared import telemetry
from shared.contracts.fleet import Own
from shared.contracts.stream import Chunk, ChunkTimings


@dataclass(slots=True)
class Making:
    """A chunk under way. `state` None: it is off the device, whose place may be somebody else's by the time
    it is encoded. `latents`: its own, where they are kept.
    """

    order: Order
    state: State
    span: Span
    steps_left: int = 0
    forward_s: float = 0.0
    decode_s: float = 0.0
    latents: PastChunk | None = None


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
