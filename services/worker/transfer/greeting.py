"""How two workers that were told of each other find together over a socket: one listens, the other shows it
the token of its invitation.
"""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
import time
from typing import Any

from services.worker.transfer.link import LinkLate, LinkLost
from services.worker.transfer.sockets import left_s, lost_if_it_fails, receive_all, send_all, wait

TOKEN_BYTES = 32
_WELCOME = b"\x06"
_GREETING_S = 1.0  # how long a stranger may hold up the acceptor


def join(family: int, address: Any, token: bytes, deadline_at: float) -> socket.socket:
    """Raises `LinkLost`. The socket doesn't block."""
    connection = socket.socket(family, socket.SOCK_STREAM)
    with lost_if_it_fails(connection.close):
        try:
            connection.settimeout(left_s(deadline_at))
            connection.connect(address)
        except TimeoutError as e:
            raise LinkLate("the peer did not take the connection in time") from e
        except OSError as e:
            raise LinkLost(f"no connection to the peer: {e}") from e
        connection.setblocking(False)
        send_all(connection, memoryview(token), deadline_at)
        if receive_all(connection, memoryview(bytearray(1)), deadline_at) != _WELCOME:
            raise LinkLost("the peer did not answer the greeting")
    return connection


def accept(listener: socket.socket, token: bytes, deadline_at: float) -> socket.socket:
    """`listener`: one that doesn't block. Strangers are turned away, each after at most `_GREETING_S`. Raises
    `LinkLost`. The socket doesn't block.
    """
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            wait(listener, select.POLLIN, deadline_at)
            continue
        except OSError as e:
            raise LinkLost(f"the link could not be accepted: {e}") from e
        connection.setblocking(False)
        with contextlib.suppress(LinkLost), lost_if_it_fails(connection.close):
            _greet(connection, token, min(deadline_at, time.monotonic() + _GREETING_S))
            return connection


def _greet(connection: socket.socket, token: bytes, deadline_at: float) -> None:
    said = receive_all(connection, memoryview(bytearray(TOKEN_BYTES)), deadline_at)
    if not hmac.compare_digest(said, token):
        raise LinkLost("a stranger")
    send_all(connection, memoryview(_WELCOME), deadline_at)
