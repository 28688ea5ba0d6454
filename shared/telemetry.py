"""Traces, logs with trace ids, and how a trace crosses the bus.

Tracing is off unless the standard variables ask for it (`OTEL_EXPORTER_OTLP_ENDPOINT` or
`OTEL_TRACES_EXPORTER=otlp`). One trace follows a session's opening through all services up to its first
chunk. Every later chunk is a root span of its own, linked to that trace, and is sampled as its session was; a
span tree would pretend that a batch has one parent.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

tracer = trace.get_tracer("turboserve")

_propagator = TraceContextTextMapPropagator()


class SessionSampler(Sampler):
    """Follows the parent; a root with links follows its first link (a chunk is sampled as its session is);
    any other root is sampled with `ratio`."""

    def __init__(self, ratio: float) -> None:
        self._roots = ParentBased(TraceIdRatioBased(ratio))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if links and not parent.is_valid:
            sampled = links[0].context.trace_flags.sampled
            return SamplingResult(
                Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP,
                attributes,
                trace_state,
            )
        return self._roots.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return "SessionSampler"


def exporting(environ: Mapping[str, str]) -> bool:
    """Whether the standard OpenTelemetry variables ask for traces."""
    if (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    ):
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return environ.get("OTEL_TRACES_EXPORTER") == "otlp" or any(environ.get(name) for name in endpoints)


def start_tracing(service: str, instance: str, sample_ratio: float) -> TracerProvider | None:
    """Export spans of this process if the environment asks for it. The caller ends it by
    `stop_tracing`.
    """
    if not exporting(os.environ):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    resource = Resource.create({"service.name": f"turboserve-{service}", "service.instance.id": instance})
    provider = TracerProvider(resource=resource, sampler=SessionSampler(sample_ratio), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def stop_tracing(provider: TracerProvider, wait_s: float) -> None:
    """Export what is left. The exporter tries a collector that is away for many seconds: after `wait_s` the
    rest is given up.
    """
    ending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    ending.start()
    ending.join(wait_s)


def inject() -> dict[str, str]:
    """Headers that carry the current trace context; empty outside a trace."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


def extract(headers: Mapping[str, str] | None) -> Context:
    return _propagator.extract(dict(headers or {}))


def traceparent(context: Context | None = None) -> str:
    """W3C traceparent of `context` (default: the current one), "" outside a trace."""
    headers: dict[str, str] = {}
    _propagator.inject(headers, context)
    return headers.get("traceparent", "")


def session_links(session_traceparent: str) -> list[Link]:
    """Link from a chunk's or batch's span to the trace its session was opened in; none if that was not
    traced.
    """
    if not session_traceparent:
        return []
    span_context = trace.get_current_span(extract({"traceparent": session_traceparent})).get_span_context()
    return [Link(span_context)] if span_context.is_valid else []


_LOG_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}


def _trace_ids() -> dict[str, str]:
    span_context = trace.get_current_span().get_span_context()
    if not span_context.is_valid:
        return {}
    return {
        "trace_id": f"{span_context.trace_id:032x}",
        "span_id": f"{span_context.span_id:016x}",
    }


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _LOG_FIELDS}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, logger, message, trace ids, and what was passed as
    `extra`.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _trace_ids() | _extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For a person at a terminal."""

    def __init__(self, service: str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s " + service + " %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{name}={value}" for name, value in (_extras(record) | _trace_ids()).items())
        first, *rest = super().format(record).split("\n")
        return "\n".join([f"{first} {extras}" if extras else first, *rest])


def start_logging(service: str, level: str, style: str) -> None:
    """Log to stderr. `style`: "json", "text", or "auto" (text on a terminal)."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter(service) if text else JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("nats", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
