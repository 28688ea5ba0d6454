"""The listening socket and uvicorn on it, inside a process whose signals and end are not uvicorn's."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp

from shared.process import StartupError

MAX_MESSAGE_BYTES = 16 * 1024  # a viewer sends grants only
SEND_BUFFER_BYTES = (
    256 * 1024
)  # a viewer that doesn't read costs the kernel this much, not the megabytes it may grow to
BACKLOG = 1024
PING_INTERVAL_S = 20.0
STOP_DEADLINE_S = 5


def listen(host: str, port: int, silent_s: float) -> socket.socket:
    """A bound socket whose connections inherit its bounds. Raises `StartupError` if the address can't be had.

    `silent_s`: the kernel ends a connection whose peer took nothing for so long (Linux).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silent_s * 1000))
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(f"can't listen on {host} port {port}: {_why(error)}") from None
    return listener


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program uses that port; stop it, or choose another with TURBOSERVE_GATEWAY_PORT"
    reason = error.strerror or str(error)
    return f"{reason}; choose another with TURBOSERVE_GATEWAY_HOST and TURBOSERVE_GATEWAY_PORT"


class Server(uvicorn.Server):
    """Leaves signals to the process it runs in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: ASGIApp, silent_s: float) -> Server:
    """Stopped by `should_exit`: viewers get close code 1012, and everything has `STOP_DEADLINE_S` to end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=silent_s,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_DEADLINE_S,
    )
    return Server(config)
