from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.gateway.observe import Observed
from services.gateway.tracing import delivering
from shared import telemetry
from shared.contracts.stream import Chunk
from tests.fixtures.gateway import chunk_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=telemetry.SessionSampler(1.0))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "tracer", provider.get_tracer("test"))
    return exporter


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def delivered(spans: InMemorySpanExporter, index: int, traceparent: str) -> tuple[ReadableSpan, ...]:
    chunk: Chunk = chunk_of("main_00000000000000000000", index, traceparent=traceparent)
    with delivering(chunk):
        pass
    return spans.get_finished_spans()


def test_the_first_chunk_ends_the_trace_of_the_opening(spans: InMemorySpanExporter) -> None:
    (span,) = delivered(spans, 0, TRACEPARENT)
    assert span.name == "gateway.deliver_first_chunk"
    assert trace_id(span) == TRACE


def test_later_chunks_are_roots_with_a_link(spans: InMemorySpanExporter) -> None:
    (span,) = delivered(spans, 5, TRACEPARENT)
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]


def test_of_a_session_that_is_not_sampled_no_delivery_is(spans: InMemorySpanExporter) -> None:
    assert not delivered(spans, 0, f"00-{TRACE}-{SPAN}-00")
    assert not delivered(spans, 5, f"00-{TRACE}-{SPAN}-00")
    assert not delivered(spans, 5, "")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_callers_trace_is_joined_only_if_it_is_trusted(spans: InMemorySpanExporter, trusted: bool) -> None:
    inside: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(telemetry.traceparent())
        scope["path_template"] = "/v1/sessions"
        await send({"type": "http.response.start", "status": 201, "headers": []})

    async def send(message: Any) -> None:
        assert (b"x-content-type-options", b"nosniff") in message["headers"]

    headers = [(b"traceparent", TRACEPARENT.encode())]
    scope: Any = {"type": "http", "method": "POST", "headers": headers}
    observed = Observed(app, trust_trace_context=trusted)
    asyncio.run(observed(scope, send, send))  # type: ignore[arg-type]
    (span,) = spans.get_finished_spans()
    assert span.name == "POST /v1/sessions"
    assert (span.attributes or {})["http.response.status_code"] == 201
    trace = trace_id(span)
    assert inside[0].split("-")[1] == trace, "what the handler asks of others belongs to the request's trace"
    assert (trace == TRACE) == trusted
