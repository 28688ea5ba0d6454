"""What every request handler works with, and who may call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from litestar import WebSocket
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from services.gateway.cells import Cells
from services.gateway.problems import Problem
from services.gateway.settings import GatewaySettings

Connection = ASGIConnection[Any, Any, Any, Any]
Socket = WebSocket[Any, Any, Any]


class Gateway:
    """The parts of one running gateway. `viewers`: open WebSockets."""

    def __init__(self, settings: GatewaySettings, cells: Cells) -> None:
        self.settings = settings
        self.cells = cells
        self.viewers = 0


def socket_base(connection: Connection) -> str:
    """How this caller reaches the gateway for WebSockets: by the name it used itself."""
    scheme = "wss" if connection.scope["scheme"] in {"https", "wss"} else "ws"
    return f"{scheme}://{connection.headers.get('host', '')}"


class SameOrigin:
    """A guard: pages of other origins may not call, unless the settings name them. Other programs may."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    def __call__(self, connection: Connection, _: BaseRouteHandler) -> None:
        origin = connection.headers.get("origin")
        if origin is None or origin in self._allowed or "*" in self._allowed:
            return
        if urlsplit(origin).netloc.lower() != connection.headers.get("host", "").lower():
            raise Problem(
                403,
                "origin_not_allowed",
                f"pages of {origin[:100]} may not call this gateway",
                "name the origin in TURBOSERVE_GATEWAY_ALLOWED_ORIGINS",
            )
