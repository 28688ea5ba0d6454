"""Non-blocking sockets with deadlines, on the monotonic clock."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

from services.worker.transfer.link import LinkLate, LinkLost

_PEER_IS_GONE = getattr(select, "POLLRDHUP", 0)  # elsewhere than on Linux: only errors and ends are seen


def send_all(connection: socket.socket, view: memoryview, deadline_at: float) -> None:
    while view:
        try:
            view = view[connection.send(view) :]
        except BlockingIOError:
            wait(connection, select.POLLOUT, deadline_at)


def receive_all(connection: socket.socket, view: memoryview, deadline_at: float) -> memoryview:
    """Fills `view` and returns it."""
    missing = view
    while missing:
        try:
            count = connection.recv_into(missing)
        except BlockingIOError:
            wait(connection, select.POLLIN, deadline_at)
            continue
        if count == 0:
            raise LinkLost("the peer closed the link in mid-transfer")
        missing = missing[count:]
    return view


def wait(waiting: socket.socket, event: int, deadline_at: float) -> None:
    """Until `waiting` can go on, or will say why it can't."""
    poll = select.poll()
    poll.register(waiting, event)
    if not poll.poll(left_s(deadline_at) * 1000):
        raise LinkLate("the deadline passed while waiting for the peer")


def is_whole(connection: socket.socket) -> bool:
    """Whether the peer still seems to hold its end. Doesn't wait."""
    poll = select.poll()
    try:
        poll.register(connection, _PEER_IS_GONE)
    except ValueError:  # closed
        return False
    return not poll.poll(0)


def left_s(deadline_at: float) -> float:
    left = deadline_at - time.monotonic()
    if left <= 0:
        raise LinkLate("the deadline passed")
    return left


@contextlib.contextmanager
def lost_if_it_fails(clean_up: Callable[[], None]) -> Iterator[None]:
    """A link that failed once is out of step: it is never used again."""
    try:
        yield
    except LinkLost:
        clean_up()
        raise
    except OSError as e:
        clean_up()
        raise LinkLost(f"the link to the peer broke: {e}") from e
