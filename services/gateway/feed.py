"""One watched session in this gateway: hears of it, follows its log, tells how far its viewers are.

Made by the first viewer, gone with the last. A hint that gets lost delays by one poll, a
lost change of the row by one refresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import NamedTuple

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from services.gateway.commands import Placement
from services.gateway.ordering import Cursor, furthest
from services.gateway.tail import LogTail
from shared.bus import Bus, BusAway, Meta, NoAnswer, Refused
from shared.chunk_log import ChunkLog
from shared.contracts.session import ENDED, SessionView
from shared.contracts.stream import ChunkReady, SessionChanged, ViewerReport
from shared.contracts.subjects import CHUNK_READY, SESSION_CHANGED, VIEWERS
from shared.settings import PositiveSeconds

logger = logging.getLogger(__name__)

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


def _moment(view: SessionView) -> tuple[str, int | None, float | None]:
    """What changes about a session while its row doesn't."""
    return view.phase, view.position, view.expected_wait_s


class Feed:
    """`away_since`: when (monotonic) NATS went away, None: it is there. `settled`: the session has ended, and
    the log was read to its end since. `users` counts for `Feeds`.
    """

    def __init__(self, sources: Sources, view: SessionView) -> None:
        self.view = view
        self.tail = LogTail(sources.bus, sources.log, view, self._wake)
        self.away_since: float | None = None
        self.settled = False
        self.users = 0
        self._sources = sources
        self._at = {"cell": view.cell, "tenant": view.tenant, "session": view.id}
        self._seats: set[Seat] = set()
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
        bus = self._sources.bus
        self.tail.require_nats()
        if not self._subscriptions:
            self._subscriptions.append(await bus.subscribe(CHUNK_READY, self._on_ready, **self._at))
            self._subscriptions.append(await bus.subscribe(SESSION_CHANGED, self._on_changed, **self._at))
        await self.tail.start(at_least=self.view.next_chunk)
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

    def regained(self) -> None:
        """NATS is back, perhaps a new one with an empty log: look at everything again."""
        self.tail.lose_place()
        self._look_now.set()
        self._refresh_now.set()

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
        if self.tail.is_news(ready):
            self._look_now.set()

    def _on_changed(self, changed: SessionChanged, _: Meta) -> None:
        self._see(changed.session)

    def _see(self, view: SessionView) -> None:
        if view.id != self.view.id or view.revision < self.view.revision:
            return
        if view.revision == self.view.revision and _moment(view) == _moment(self.view):
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
        had_ended = self.ended
        await self.tail.advance()
        if had_ended and not self.settled:
            self.settled = True
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
