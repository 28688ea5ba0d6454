"""Publishing the outbox: every public event reaches the durable stream once, in order, whatever dies
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import nats.errors
from nats.js import JetStreamContext, api
from nats.js.errors import NoStreamResponseError

from services.placement import metrics
from shared.bus import Bus
from shared.cancellation import heeding_cancellation
from shared.contracts.events import lifecycle_pattern
from shared.jetstream import ensure_stream
from shared.store import outbox
from shared.store.engine import Store, StoreAway
from shared.store.outbox import OutboxEvent

logger = logging.getLogger(__name__)

BATCH = 100
_LOOK_EVERY_S = 1.0
_BACK_OFF_S = (0.25, 0.5, 1.0, 2.0)
_PUBLISH_TIMEOUT_S = 2.0
_KEEP_PUBLISHED_S = 3600.0
_FORGET_EVERY_S = 60.0


class _Unpublished(Exception):
    """The stream did not take an event."""


class Publisher:
    """Moves events from the store to the stream. `nudge` it when there is one; it also looks by itself."""

    def __init__(self, bus: Bus, store: Store, cell: str) -> None:
        self._js: JetStreamContext = bus.client.jetstream(timeout=_PUBLISH_TIMEOUT_S)
        self._store = store
        self._cell = cell
        self._nudged = asyncio.Event()
        self._stream_ensured = False
        self._forget_at = 0.0

    def nudge(self) -> None:
        self._nudged.set()

    async def run(self) -> None:
        """For as long as the process runs: an outage is waited for."""
        failures = 0
        while True:
            self._nudged.clear()
            try:
                while await self.publish_some() == BATCH:
                    pass
                failures = 0
            except (_Unpublished, StoreAway) as error:
                failures += 1
                log = logger.warning if failures == 1 else logger.debug
                log("public events wait in the outbox: %s", error)
                await asyncio.sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._nudged.wait()

    async def publish_some(self) -> int:
        """Publish the oldest events, at most `BATCH`; how many."""
        async with self._store.begin() as transaction:
            events = await outbox.unpublished(transaction, BATCH)
            waiting = await outbox.waiting(transaction)
        metrics.outbox_waiting.set(waiting.events)
        metrics.outbox_lag_s.set(
            0.0 if waiting.oldest_at is None else max(0.0, time.time() - waiting.oldest_at)
        )
        done: list[str] = []
        try:
            for event in events:
                await self._publish(event)
                done.append(event.id)
        finally:
            await self._mark(done)
        return len(done)

    async def _mark(self, done: list[str]) -> None:
        now = time.time()
        if not done and now < self._forget_at:
            return
        async with self._store.begin() as transaction:
            if done:
                await outbox.mark_published(transaction, done, now)
            if now >= self._forget_at:
                await outbox.forget_published(transaction, now - _KEEP_PUBLISHED_S)
                self._forget_at = now + _FORGET_EVERY_S

    async def _publish(self, event: OutboxEvent) -> None:
        headers = {str(api.Header.MSG_ID.value): event.id, "Content-Type": "application/cloudevents+json"}
        try:
            with heeding_cancellation():
                if not self._stream_ensured:
                    await self._ensure_stream()
                await self._js.publish(event.subject, event.payload, _PUBLISH_TIMEOUT_S, headers=headers)
        except NoStreamResponseError:
            self._stream_ensured = False
            raise _Unpublished("the stream of public events was missing and will be created again") from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise _Unpublished(f"NATS: {error or type(error).__name__}") from None

    async def _ensure_stream(self) -> None:
        await ensure_stream(
            self._js,
            f"TS_{self._cell}_EVENTS",
            lifecycle_pattern(self._cell),
            storage=api.StorageType.FILE,
            max_age=7 * 24 * 3600,
            max_bytes=128 * 1024 * 1024,
            duplicate_window=600,
        )
        self._stream_ensured = True
