"""The HTTP and WebSocket application: which call goes where, what is documented, what every call obeys."""

from __future__ import annotations

from litestar import Litestar, websocket
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from services.gateway import (
    decisions,
    health,
    operations,
    page_files,
    session_operations,
    sessions,
    sizing,
)
from services.gateway.bodies import StrictRequest
from services.gateway.gateway import Gateway, SameOrigin, Socket
from services.gateway.observe import Observed
from services.gateway.problems import answer
from services.gateway.stream import stream

MAX_BODY_BYTES = 64 * 1024
API_VERSION = "1.0.0"

_DESCRIPTION = """\
Live video from text, chunk by chunk. Open a session, then watch it over the WebSocket that its `stream_url`
names: `{stream_url}?from=N&credit=auto`. Text messages are JSON with a `type` (`session`, `chunk`, `state`,
`cut`, `error`, `end`); every binary message is one chunk, H.264 Annex-B that begins with a keyframe,
announced by the `chunk` message before it. A viewer sends `{"type": "grant", "granted_through": n}` when it
is done with chunk n; with `credit=auto` it needn't. Every error is `{"error": {"code", "message",
"hint"}}`.
"""


@websocket("/v1/sessions/{session_id:str}/stream")
async def watch_session(socket: Socket, session_id: str, gateway: Gateway) -> None:
    await stream(socket, session_id, gateway)


def make_app(gateway: Gateway) -> ASGIApp:
    settings = gateway.settings
    app = Litestar(
        route_handlers=[
            sessions.router(),
            session_operations.router(),
            operations.router(),
            sizing.router(),
            decisions.router(),
            watch_session,
            health.healthz,
            health.readyz,
            health.metrics,
            page_files.index,
            page_files.page_file,
        ],
        dependencies={"gateway": Provide(lambda: gateway, sync_to_thread=False)},
        exception_handlers={Exception: answer},
        guards=[SameOrigin(settings.origins)],
        cors_config=CORSConfig(allow_origins=settings.origins) if settings.origins else None,
        openapi_config=_openapi(),
        request_class=StrictRequest,
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
    )
    return Observed(app, trust_trace_context=settings.trust_trace_context)


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="turboserve",
        version=API_VERSION,
        description=_DESCRIPTION,
        path="/openapi.json",
        render_plugins=[JsonRenderPlugin(path="/")],
    )
