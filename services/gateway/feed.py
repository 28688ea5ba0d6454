"""One watched session in this gateway: hears of it, follows its log, tells how far its viewers are.

Made by the first viewer, gone with the last. It holds the newest chunks only; who is further behind reads the
log. A hint that gets lost delays by one poll, a lost change of the row by one refresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from services.gateway import metrics
from services.gateway.commands import Placement
from services.gateway.ordering import Cursor, furthest
from shared.bus import Bus, BusAway, Meta, NoAnswer, Refused
from shared.chunk_log import ChunkLog, Entry
from shared.contracts.session import ENDED, SessionView
from shared.contracts.stream import ChunkReady, SessionChanged, ViewerReport
from shared.contracts.subjects import CHUNK_READY, SESSION_CHANGED, VIEWERS
from shared.settings import PositiveSeconds

logger = logging.getLogger(__name__)

HELD_CHUNKS = 3  # the window of two, and the one being written
REPORT_S = 1.0


class Sources(NamedTuple):
    """What every feed of a gateway works with."""

    gateway: str
    bus: Bus
    log: ChunkLog
    placement: Placement
    poll_s: PositiveSeconds
    refresh_s: PositiveSeconds


class Seat:
    """A viewer as its feed sees it: its place, and how to wake it."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.news = asyncio.Event()


class Feed:
    """`next_index`: the first not seen in the log yet. `away_since`: when (monotonic) NATS went away, None:
    it is there. `settled`: the session has ended, and the log was read to its end since.
    """

    def __init__(self, sources: Sources, view: SessionView) -> None:
        self.view = view
        self.next_index = 0
        self.away_since: float | None = None
        self.settled = False
        self.users = 0
        self._sources = sources
        self._at = {"cell": view.cell, "tenant": view.tenant, "session": view.id}
        self._seats: set[Seat] = set()
        self._held: deque[Entry] = deque(maxlen=HELD_CHUNKS)
        self._sequence = 0
        self._lost_place = False
        self._look_now = asyncio.Event()
        self._refresh_now = asyncio.Event()
        self._told_granted = -1
        self._was_watched = False
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._starting: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.view.status in ENDED

    async def started(self) -> None:
        """Wait until the feed knows what the log holds; any number of viewers may. Raises `BusAway`."""
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        self._require_nats()
        bus = self._sources.bus
        if not self._subscriptions:
            self._subscriptions.append(await bus.subscribe(CHUNK_READY, self._on_ready, **self._at))
            self._subscriptions.append(await bus.subscribe(SESSION_CHANGED, self._on_changed, **self._at))
        newest = await self._sources.log.last(self.view.tenant, self.view.id)
        if newest is not None:
            self._take(newest)
        self.next_index = max(self.next_index, self.view.next_chunk)
        if not self._tasks:
            self._tasks += [
                asyncio.create_task(self._follow_log()),
                asyncio.create_task(self._follow_session()),
            ]

    async def stop(self) -> None:
        """The last viewer left. Says so once, and leaves nothing behind."""
        if self._starting is not None:  # not cancelled: half a subscription could not be taken back
            await asyncio.gather(self._starting, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._was_watched:
            await self._report()
        for subscription in self._subscriptions:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def sit(self, seat: Seat) -> None:
        self._seats.add(seat)
        self._was_watched = True
        await self._report()

    def stand_up(self, seat: Seat) -> None:
        self._seats.discard(seat)

    async def credit_changed(self) -> None:
        """A viewer granted something. Tell the worker at once if the furthest one did."""
        if furthest((seat.cursor for seat in self._seats), self._told_granted) > self._told_granted:
            await self._report()

    async def oldest_held(self) -> int:
        """The oldest index the log holds, `next_index` if it holds none. Raises `BusAway`."""
        oldest = await self._sources.log.next_from(self.view.tenant, self.view.id, 1)
        return self.next_index if oldest is None else oldest.chunk.index

    async def read(self, index: int, after: int) -> Entry | None:
        """The first chunk held from `index` on, None if there is none. Raises `BusAway`.

        `after`: the stream sequence of the one before it, which saves the search; 0: not known.
        """
        self._require_nats()
        for entry in self._held:
            if entry.chunk.index == index:
                return entry
        log, tenant, session = self._sources.log, self.view.tenant, self.view.id
        if after:
            entry_after = await log.next_from(tenant, session, after + 1)
            if entry_after is not None and entry_after.chunk.index == index:
                return entry_after
        return await log.find(tenant, session, index)

    def regained(self) -> None:
        """NATS is back, perhaps a new one with an empty log: look at everything again."""
        self._lost_place = True
        self._look_now.set()
        self._refresh_now.set()

    def _require_nats(self) -> None:
        """Don't wait for a deadline where the answer is known."""
        if not self._sources.bus.connected_s:
            raise BusAway(f"NATS at {self._sources.bus.url} is away")

    def note_away(self) -> None:
        if self.away_since is None:
            self.away_since = time.monotonic()
            self._wake()

    def _note_back(self) -> None:
        if self.away_since is not None:
            self.away_since = None
            self._wake()

    def _wake(self) -> None:
        for seat in self._seats:
            seat.news.set()

    def _on_ready(self, ready: ChunkReady, _: Meta) -> None:
        if ready.index < self.next_index:
            return
        if ready.sequence <= self._sequence:
            self._lost_place = True  # the stream was made anew
        self._look_now.set()

    def _on_changed(self, changed: SessionChanged, _: Meta) -> None:
        self._see(changed.session)

    def _see(self, view: SessionView) -> None:
        if view.revision <= self.view.revision or view.id != self.view.id:
            return
        self.view = view
        if self.ended:
            self._look_now.set()
        self._wake()

    async def _follow_log(self) -> None:
        while True:
            self._look_now.clear()
            try:
                await self._look()
            except BusAway as away:
                logger.debug("%s", away)
                self.note_away()
            else:
                self._note_back()
            if self.ended or self.away_since is not None:
                self._wake()  # its viewers' patience has limits
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sources.poll_s):
                    await self._look_now.wait()

    async def _look(self) -> None:
        """Read on to the end of the log."""
        had_ended = self.ended
        log, tenant, session = self._sources.log, self.view.tenant, self.view.id
        self._require_nats()
        if self._lost_place:
            entry = await log.find(tenant, session, self.next_index)
            self._lost_place = False
            self._sequence = 0 if entry is None else self._sequence
        else:
            entry = await log.next_from(tenant, session, self._sequence + 1)
        while entry is not None:
            self._take(entry)
            entry = await log.next_from(tenant, session, entry.sequence + 1)
        if had_ended and not self.settled:
            self.settled = True
            self._wake()

    def _take(self, entry: Entry) -> None:
        self._sequence = entry.sequence
        if entry.chunk.index >= self.next_index:
            self.next_index = entry.chunk.index + 1
            self._held.append(entry)
            self._wake()

    async def _follow_session(self) -> None:
        refresh_at = time.monotonic() + self._sources.refresh_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S):
                    await self._refresh_now.wait()
            await self._report()
            if self._refresh_now.is_set() or time.monotonic() >= refresh_at:
                self._refresh_now.clear()
                read = await self._refresh()
                refresh_at = time.monotonic() + (self._sources.refresh_s if read else REPORT_S)

    async def _refresh(self) -> bool:
        """False if placement could not be asked: ask again soon."""
        if self.ended:
            return True
        try:
            self._see(await self._sources.placement.get(self.view.id))
        except (Refused, NoAnswer, BusAway) as error:
            logger.debug("session %s not read: %s", self.view.id, error)
            return False
        return True

    async def _report(self) -> None:
        self._told_granted = furthest((seat.cursor for seat in self._seats), self._told_granted)
        report = ViewerReport(self._sources.gateway, len(self._seats), self._told_granted)
        await self._sources.bus.publish(VIEWERS.at(**self._at), report)


class Feeds:
    """All feeds of this gateway, by session."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._feeds: dict[str, Feed] = {}
        sources.bus.on_reconnect(self._regained)

    @contextlib.asynccontextmanager
    async def watch(self, view: SessionView) -> AsyncIterator[Feed]:
        """The session's feed, for as long as the caller watches. Raises `BusAway`."""
        feed = self._feeds.get(view.id)
        if feed is None:
            feed = self._feeds[view.id] = Feed(self._sources, view)
            metrics.feeds.inc()
        feed.users += 1
        try:
            await feed.started()
            yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                del self._feeds[view.id]
                metrics.feeds.dec()
                await feed.stop()

    def _regained(self) -> None:
        for feed in self._feeds.values():
            feed.regained()
