"""The cold tier, as a worker uses it: what was made is put there behind the chunks, what was lost is sought
there.

Event loop only. Nothing here may delay a chunk: what waits to be put is bounded, and seeking has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import NamedTuple

from services.worker import latents, metrics
from services.worker.models.protocol import ModelSpec, PastChunk
from shared.bus import BusAway
from shared.contracts.fleet import Own
from shared.latent_log import LatentLog, LatentsTooLarge, Window

logger = logging.getLogger(__name__)

SEEK_S = 2.0
MOST_WAITING = 64
_MOST_APART = 2  # chunks between the newest kept and the newest in the log; beyond, the picture begins anew
_RENEW_EVERY = 64
_MOST_TRIES, _AGAIN_S = 5, 0.5


class _Waiting(NamedTuple):
    own: Own
    chunk: PastChunk
    tries: int = 0


class Cold:
    """Of a model that can be rebuilt. `run` is its task."""

    def __init__(self, log: LatentLog, spec: ModelSpec) -> None:
        self._log = log
        self._window = Window(spec.recent_chunks, spec.sink_chunks)
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._sending = ""
        self._some = asyncio.Event()
        self._sent = asyncio.Condition()
        self._failing = False

    def keep(self, own: Own, chunk: PastChunk) -> None:
        """Of a chunk that is in the log. One a place waits: the newest wins."""
        key = own.session, self._window.place(chunk.index, chunk.origin)
        if len(self._waiting) >= MOST_WAITING and key not in self._waiting:
            del self._waiting[next(iter(self._waiting))]
            metrics.cold_puts.labels("dropped").inc()
        self._waiting[key] = _Waiting(own, chunk)
        self._some.set()

    async def run(self) -> None:
        """Until cancelled: put what waits, one after another."""
        with contextlib.suppress(BusAway):  # the first put says so
            await self._log.ensure()
        while True:
            await self._some.wait()
            while self._waiting:
                key = next(iter(self._waiting))
                self._sending = key[0]
                await self._send(key, self._waiting.pop(key))
                async with self._sent:
                    self._sending = ""
                    self._sent.notify_all()
            self._some.clear()

    async def _send(self, key: tuple[str, int], waiting: _Waiting) -> None:
        """What fails waits again, behind the others, unless something newer has its place."""
        try:
            await self._put(waiting.own, waiting.chunk)
        except Exception as error:  # noqa: BLE001 whatever it is, the chunks go on
            self._failed(error, waiting.own.session)
            if isinstance(error, BusAway) and waiting.tries < _MOST_TRIES and key not in self._waiting:
                self._waiting[key] = waiting._replace(tries=waiting.tries + 1)
            await asyncio.sleep(_AGAIN_S)
        else:
            self._failing = False
            metrics.cold_puts.labels("stored").inc()

    async def _put(self, own: Own, chunk: PastChunk) -> None:
        await self._log.put(own.tenant, latents.to_message(own, chunk), self._window)
        if (chunk.index - chunk.origin) % _RENEW_EVERY == _RENEW_EVERY - 1:
            await self._log.renew(own.tenant, own.session, chunk.origin, self._window)

    def _failed(self, error: Exception, session: str) -> None:
        """Said once until something is stored again."""
        metrics.cold_puts.labels("failed").inc()
        if not self._failing:
            expected = isinstance(error, BusAway | LatentsTooLarge)
            text = "not kept for the cold tier: %s"
            logger.warning(text, error, exc_info=not expected, extra={"session": session})
        self._failing = True

    async def past(self, own: Own, next_chunk: int) -> tuple[PastChunk, ...]:
        """What the state that makes `next_chunk` can be rebuilt from, oldest first. Empty: nothing fits, or
        whatever went wrong: the session waits for this, so it always answers.
        """
        try:
            async with asyncio.timeout(SEEK_S):
                await self._settle(own.session)
                found = await self._log.past(own.tenant, own.session, self._window)
            if not found or abs(next_chunk - 1 - found[-1].index) > _MOST_APART:
                return ()
            return latents.to_past(found, next_chunk)
        except (BusAway, TimeoutError, ValueError) as error:
            text = str(error) or f"no answer within {SEEK_S:g} s"
            logger.warning("cold tier: %s", text, extra={"session": own.session})
        except Exception:
            logger.exception("cold tier: not read", extra={"session": own.session})
        return ()

    async def idle(self) -> None:
        """Until all that was kept is there, or given up: before a worker ends, with a deadline of its own."""
        async with self._sent:
            await self._sent.wait_for(lambda: not self._sending and not self._waiting)

    async def _settle(self, session: str) -> None:
        """Until what this worker keeps of the session is there."""
        async with self._sent:
            await self._sent.wait_for(
                lambda: self._sending != session and all(key[0] != session for key in self._waiting)
            )
