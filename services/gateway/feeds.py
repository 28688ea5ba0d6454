"""All feeds of one gateway: made by a session's first viewer, ended by its last."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from services.gateway import metrics
from services.gateway.feed import Feed, Sources
from shared.contracts.session import SessionView


class Feeds:
    """The watched sessions' feeds, by session."""

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
