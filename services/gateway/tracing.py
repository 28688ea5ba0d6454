"""Where a delivery's span hangs: chunk 0 ends the trace of its session's opening, later ones link to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from opentelemetry.context import Context
from opentelemetry.util.types import AnyValue

from shared import telemetry
from shared.contracts.stream import Chunk


@contextlib.contextmanager
def delivering(chunk: Chunk) -> Iterator[None]:
    """Around handing one chunk to one viewer."""
    attributes: dict[str, AnyValue] = {"turboserve.session": chunk.session, "turboserve.chunk": chunk.index}
    if not chunk.traceparent:
        yield
    elif chunk.index == 0:
        context = telemetry.extract({"traceparent": chunk.traceparent})
        with telemetry.tracer.start_as_current_span(
            "gateway.deliver_first_chunk", context=context, attributes=attributes
        ):
            yield
    else:
        links = telemetry.session_links(chunk.traceparent)
        with telemetry.tracer.start_as_current_span(
            "gateway.deliver_chunk", context=Context(), links=links, attributes=attributes
        ):
            yield
