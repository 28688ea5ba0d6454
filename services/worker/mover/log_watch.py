"""The source of a move learns from the chunk log that its target has taken over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from nats.aio.subscription import Subscription

from services.worker.copies import Copy
from services.worker.desk import Desk
from services.worker.holdings import unsubscribe
from shared.bus import BusAway
from shared.contracts.stream import ChunkReady
from shared.contracts.subjects import CHUNK_READY

_LOOK_S = 0.5


class LogWatch:
    """`hear` is called with the epoch of every chunk that the log has of the session."""

    def __init__(self, desk: Desk, copy: Copy, hear: Callable[[int], None]) -> None:
        self._desk, self._copy, self._hear = desk, copy, hear
        self._subscribing: asyncio.Task[Subscription] | None = None

    async def begin(self) -> None:
        desk, own = self._desk, self._copy.own
        at = {"cell": desk.cell, "tenant": own.tenant, "session": own.session}
        subscribing = desk.bus.subscribe(CHUNK_READY, self._hear_ready, **at)
        self._subscribing = asyncio.ensure_future(subscribing)
        await asyncio.shield(self._subscribing)

    def _hear_ready(self, ready: ChunkReady, _meta: object) -> None:
        self._hear(ready.epoch)

    async def look(self) -> None:
        """The target's chunk may be there though nobody said so."""
        desk, own = self._desk, self._copy.own
        with contextlib.suppress(BusAway, TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                last = await desk.log.last(own.tenant, own.session)
                if last is not None and last.chunk.worker != desk.worker:
                    self._hear(last.chunk.epoch)

    async def end(self) -> None:
        if self._subscribing is not None:
            with contextlib.suppress(Exception):
                await unsubscribe(await self._subscribing)
