"""One viewer's WebSocket: from its first message to its close code. ARCHITECTURE.md has the protocol."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from litestar.exceptions import WebSocketDisconnect

from services.gateway import events, metrics
from services.gateway.closing import BAD_REQUEST, COME_BACK, GONE, Closing, failed, failed_by
from services.gateway.gateway import Gateway, Socket
from services.gateway.ordering import FromGone, FromOutOfRange, join
from services.gateway.problems import Problem, problem_of
from services.gateway.viewer import Viewer

logger = logging.getLogger(__name__)

MAX_CLOSE_REASON_BYTES = 123


class Asked(NamedTuple):
    """The query of a stream. `start` None: the live edge."""

    start: int | None
    auto: bool


async def stream(socket: Socket, session_id: str, gateway: Gateway) -> None:
    """Serve one viewer until it leaves, the session ends, or it must go."""
    await socket.accept()
    metrics.viewers.inc()
    gateway.viewers += 1
    try:
        closing = await _serve(socket, session_id, gateway)
        if closing is not None:
            await _close(socket, closing, gateway.settings.viewer_silent_s)
    except (WebSocketDisconnect, OSError) as error:
        # A TimeoutError too: it took nothing for too long.
        logger.debug("a viewer of %s is gone: %s", session_id[:60], type(error).__name__)
    finally:
        gateway.viewers -= 1
        metrics.viewers.dec()


async def _serve(socket: Socket, session_id: str, gateway: Gateway) -> Closing | None:
    if gateway.viewers > gateway.settings.max_viewers:
        return failed(COME_BACK, "too_many_viewers", "this gateway has all the viewers it takes", "come back")
    try:
        asked = _asked(socket)
        cell = gateway.cells.of(session_id)
        view = await cell.placement.get(session_id)
        async with cell.feeds.watch(view) as feed:
            oldest = await feed.tail.oldest_held()
            cursor = join(asked.start, oldest, feed.tail.next_index, auto=asked.auto)
            return await Viewer(socket, gateway, feed, cursor).play(oldest)
    except FromOutOfRange as error:
        return failed(
            BAD_REQUEST, "from_out_of_range", str(error), "leave `from` out to join at the live edge"
        )
    except FromGone as error:
        hint = "ask for that one, or leave `from` out to join at the live edge"
        return failed(GONE, "from_gone", str(error), hint, error.oldest_held)
    except (WebSocketDisconnect, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # the viewer is told, and problem_of logs what nobody expected
        return failed_by(problem_of(error))


def _asked(socket: Socket) -> Asked:
    """Raises `Problem`."""
    query = socket.query_params
    start, credit = query.get("from"), query.get("credit")
    if credit not in (None, "auto"):
        raise Problem(
            422, "invalid_field", f"credit={credit[:20]!r} is not known", "leave it out, or say credit=auto"
        )
    if start is None:
        return Asked(None, credit == "auto")
    digits = start.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 16):
        raise Problem(
            422, "invalid_field", f"from={start[:20]!r} is not a chunk index", "leave it out to join live"
        )
    return Asked(int(start), credit == "auto")


async def _close(socket: Socket, closing: Closing, deadline_s: float) -> None:
    async with asyncio.timeout(deadline_s):
        if closing.event is not None:
            await socket.send_text(events.encode(closing.event))
        await socket.close(closing.code, closing.reason[:MAX_CLOSE_REASON_BYTES])
