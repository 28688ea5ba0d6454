"""Who is sampled, what is exported, and that a log line says which trace it belongs to."""

import io
import json
import logging
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import telemetry

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DROPPED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Tracing:
    """A tracer of the test's own, and what it would have exported."""

    def __init__(self, ratio: float) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=telemetry.SessionSampler(ratio))
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")

    def exported(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@pytest.mark.parametrize(("session", "ratio", "count"), [(SAMPLED, 0.0, 1), (DROPPED, 1.0, 0)])
def test_a_chunk_is_sampled_as_its_session_was(session: str, ratio: float, count: int) -> None:
    tracing = Tracing(ratio)
    tracing.tracer.start_span("worker.chunk", links=telemetry.session_links(session)).end()
    assert len(tracing.exported()) == count


def test_a_chunk_is_a_root_linked_to_its_session() -> None:
    tracing = Tracing(0.0)
    tracing.tracer.start_span("worker.chunk", links=telemetry.session_links(SAMPLED)).end()
    [span] = tracing.exported()
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [SAMPLED.split("-")[1]]


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 1), (0.0, 0)])
def test_a_root_without_session_is_sampled_by_ratio(ratio: float, count: int) -> None:
    tracing = Tracing(ratio)
    tracing.tracer.start_span("anything").end()
    assert len(tracing.exported()) == count


@pytest.mark.parametrize(("parent", "count"), [(SAMPLED, 1), (DROPPED, 0)])
def test_a_child_follows_its_parent_whatever_it_links_to(parent: str, count: int) -> None:
    tracing = Tracing(0.5)
    links = telemetry.session_links(DROPPED if parent == SAMPLED else SAMPLED)
    context = telemetry.extract({"traceparent": parent})
    tracing.tracer.start_span("child", context=context, links=links).end()
    assert len(tracing.exported()) == count


@pytest.mark.parametrize("session", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_without_a_session_trace_there_is_no_link(session: str) -> None:
    assert telemetry.session_links(session) == []


def test_a_trace_crosses_in_headers() -> None:
    with Tracing(1.0).tracer.start_as_current_span("asking") as span:
        headers = telemetry.inject()
        assert headers["traceparent"] == telemetry.traceparent()
    received = trace.get_current_span(telemetry.extract(headers)).get_span_context()
    assert received.span_id == span.get_span_context().span_id
    assert received.is_remote


def test_outside_a_trace_nothing_is_said() -> None:
    assert telemetry.inject() == {}
    assert telemetry.traceparent() == ""
    assert not trace.get_current_span(telemetry.extract(None)).get_span_context().is_valid


@pytest.mark.parametrize(
    ("environ", "exporting"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_nothing_is_exported_unless_asked_for(environ: dict[str, str], exporting: bool) -> None:
    assert telemetry.exporting(environ) is exporting


def test_a_json_log_line_has_trace_ids_extras_and_the_exception() -> None:
    with Tracing(1.0).tracer.start_as_current_span("work") as span:
        line = json.loads(_logged(telemetry.JsonFormatter("worker")))
    context = span.get_span_context()
    assert line["trace_id"] == f"{context.trace_id:032x}"
    assert line["span_id"] == f"{context.span_id:016x}"
    assert (line["service"], line["level"], line["session"]) == ("worker", "error", "main_x")
    assert line["message"] == "chunk 7 failed"
    assert "ZeroDivisionError" in line["exception"]


def test_a_json_log_line_outside_a_trace_has_no_trace_ids() -> None:
    assert "trace_id" not in json.loads(_logged(telemetry.JsonFormatter("worker")))


def test_a_text_line_shows_what_happened_first_and_extras_behind() -> None:
    first = _logged(telemetry.TextFormatter("worker")).splitlines()[0]
    assert first.endswith("ERROR   worker chunk 7 failed session=main_x")


def _logged(formatter: logging.Formatter) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        failure = sys.exc_info()
    handler.handle(
        logging.getLogger("x").makeRecord(
            "x", logging.ERROR, __file__, 1, "chunk %d failed", (7,), failure, extra={"session": "main_x"}
        )
    )
    return stream.getvalue().rstrip("\n")


def test_a_process_traces_nothing_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    assert telemetry.start_tracing("gateway", "gateway-1", 1.0) is None
    with telemetry.tracer.start_as_current_span("anything") as span:
        assert not span.is_recording()
