"""A viewer at work: what it is sent, in which order, and what it says back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

import msgspec

from services.gateway import events, metrics, tracing
from services.gateway.bodies import session_body
from services.gateway.closing import BAD_REQUEST, COME_BACK, NORMAL, Closing, failed
from services.gateway.feed import Feed, Seat
from services.gateway.gateway import Gateway, Socket, socket_base
from services.gateway.ordering import AwaitCredit, Cursor, Send, resume_at
from shared.bus import BusAway
from shared.chunk_log import Entry

MAX_STRIKES = 8
GRANT_HINT = 'send {"type": "grant", "granted_through": n} with an n that you received'
QUIET_S = 30.0  # looks again by itself then; everything worth looking at wakes it


class Viewer:
    """One task sends and one listens; the feed wakes the sender. The cursor says what may be sent next."""

    def __init__(self, socket: Socket, gateway: Gateway, feed: Feed, cursor: Cursor) -> None:
        self._socket = socket
        self._settings = gateway.settings
        self._feed = feed
        self._cursor = cursor
        self._seat = Seat(cursor)
        self._sequence = 0  # of the chunk sent last in the log's stream, 0: not known
        self._was_waiting = False
        self._told_state = events.state_of(feed.view, 0)
        self._told_away = False
        self._notices: deque[events.ErrorEvent] = deque(maxlen=MAX_STRIKES)
        self._strikes = 0
        self._progress_at = time.monotonic()

    async def play(self, oldest_held: int) -> Closing | None:
        """None: the viewer left."""
        await self._feed.sit(self._seat)
        tasks = [asyncio.create_task(self._hello_and_send(oldest_held)), asyncio.create_task(self._listen())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            self._feed.stand_up(self._seat)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> Closing | None:
        while True:
            message: Any = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            try:
                through = events.read_grant(message).granted_through
            except (ValueError, RecursionError) as error:
                self._strike("nonsense", f"this is no message of a viewer: {error}")
            else:
                if self._cursor.grant(through):
                    self._progress_at = time.monotonic()
                    self._seat.news.set()
                    await self._feed.credit_changed()
                else:
                    self._strike("bad_grant", f"chunk {through} was granted before it was sent")
            if self._strikes > MAX_STRIKES:
                return failed(BAD_REQUEST, "nonsense", "too many messages that make no sense", GRANT_HINT)

    def _strike(self, code: str, message: str) -> None:
        self._strikes += 1
        self._notices.append(events.ErrorEvent(code, message, GRANT_HINT))
        self._seat.news.set()

    async def _hello_and_send(self, oldest_held: int) -> Closing | None:
        feed, cursor = self._feed, self._cursor
        hello = events.Hello(
            session=session_body(feed.view, socket_base(self._socket)),
            first=cursor.next_index,
            oldest_held=oldest_held,
            next_chunk=feed.tail.next_index,
            granted_through=cursor.granted_through,
        )
        await self._tell(hello)
        while True:
            self._seat.news.clear()
            await self._tell_news()
            closing = await self._advance()
            if closing is not None:
                return closing

    async def _advance(self) -> Closing | None:
        """Send the next chunk, or wait for news."""
        feed, step = self._feed, self._cursor.step(self._feed.tail.next_index)
        if isinstance(step, Send):
            try:
                entry = await feed.tail.read(step.chunk, self._sequence)
            except BusAway:
                feed.note_away()
            else:
                await self._send_or_cut(step.chunk, entry)
                return None
        elif feed.ended and feed.settled and not self._may_linger(isinstance(step, AwaitCredit)):
            return Closing(NORMAL, "ended", events.End(feed.view.status, feed.view.reason))
        if feed.away_since is not None and time.monotonic() - feed.away_since > self._settings.away_limit_s:
            return failed(COME_BACK, "service_away", "NATS stays away", "come back in a moment")
        self._was_waiting = not isinstance(step, (Send, AwaitCredit))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await self._seat.news.wait()
        return None

    def _may_linger(self, awaits_credit: bool) -> bool:
        """Whether a viewer of an ended session is still given time to take what is left."""
        return awaits_credit and time.monotonic() - self._progress_at < self._settings.linger_s

    async def _send_or_cut(self, wanted: int, entry: Entry | None) -> None:
        found = None if entry is None else entry.chunk.index
        to = resume_at(wanted, found, self._feed.tail.next_index, ended=self._feed.ended)
        if to != wanted or entry is None:
            cut = self._cursor.cut(to)
            metrics.cuts.inc()
            await self._tell(events.CutOff(cut.start, cut.to))
            await self._feed.credit_changed()
            return
        self._cursor.sending()
        await self._deliver(entry)
        self._sequence = entry.sequence
        self._cursor.sent()
        self._progress_at = time.monotonic()
        await self._feed.credit_changed()

    async def _deliver(self, entry: Entry) -> None:
        chunk = entry.chunk
        with tracing.delivering(chunk):
            async with asyncio.timeout(self._settings.viewer_silent_s):
                await self._socket.send_text(events.encode(events.chunk_follows(chunk)))
                await self._socket.send_bytes(chunk.media)
        metrics.chunks.inc()
        metrics.chunk_bytes.inc(len(chunk.media))
        if self._was_waiting:
            metrics.delivery.observe(max(0.0, time.time() - chunk.timings.made_at))
            self._was_waiting = False

    async def _tell_news(self) -> None:
        """The viewer's own errors, NATS away, and the state: if it looks different, or NATS is back."""
        while self._notices:
            await self._tell(self._notices.popleft())
        if self._feed.away_since is not None and not self._told_away:
            hint = "the stream goes on by itself"
            await self._tell(events.ErrorEvent("service_away", "NATS is away: no chunks for now", hint))
        is_back = self._told_away and self._feed.away_since is None
        self._told_away = self._feed.away_since is not None
        state = events.state_of(self._feed.view, self._feed.tail.next_index)
        if is_back or msgspec.structs.replace(state, next_chunk=0) != self._told_state:
            self._told_state = msgspec.structs.replace(state, next_chunk=0)
            await self._tell(state)

    async def _tell(self, event: msgspec.Struct) -> None:
        async with asyncio.timeout(self._settings.viewer_silent_s):
            await self._socket.send_text(events.encode(event))
