"""Around every HTTP request: its span, its place in the metrics, and a header every answer carries."""

from __future__ import annotations

from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope
from litestar.types import Send as AsgiSend
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from services.gateway import metrics
from shared import telemetry

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """ASGI middleware, outermost. `trust_trace_context`: go on with a caller's trace, if it has one."""

    def __init__(self, app: ASGIApp, *, trust_trace_context: bool) -> None:
        self._app = app
        self._trusts = trust_trace_context

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        context = self._context(scope)
        with telemetry.tracer.start_as_current_span(method, context=context, kind=SpanKind.SERVER) as span:
            try:
                await self._app(scope, receive, noting_status)
            finally:
                route = scope.get("path_template") or "unmatched"
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.request.method": method, "http.route": route})
                span.set_attribute("http.response.status_code", status)
                metrics.requests.labels(route, method, str(status)).inc()

    def _context(self, scope: Any) -> Context:
        if not self._trusts:
            return Context()
        names = (b"traceparent", b"tracestate")
        return telemetry.extract({k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in names})
