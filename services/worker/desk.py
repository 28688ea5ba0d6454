"""What everything that has to do with the chunk log shares on a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from services.worker import metrics
from services.worker.cold import Cold
from services.worker.models.protocol import ModelSpec
from services.worker.roster import Roster
from shared.bus import Bus, BusAway
from shared.chunk_log import ChunkLog

logger = logging.getLogger(__name__)

R = TypeVar("R")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class Desk:
    """One of a worker. `cold` None: nothing is kept for rebuilding states, and none are rebuilt."""

    bus: Bus
    log: ChunkLog
    roster: Roster
    spec: ModelSpec
    cell: str
    worker: str
    cold: Cold | None = None

    async def insist(self, session: str, attempt: Callable[[], Awaitable[R]]) -> R:
        """Try until the log answers: NATS may be away for as long as it likes while this worker holds the
        session's copy. Whoever lets go of that cancels this.
        """
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                if not self.bus.client.is_connected:
                    raise BusAway(f"NATS at {self.bus.url} is away")
                return await attempt()
            except BusAway as error:
                logger.log(
                    logging.WARNING if wait_s == _FIRST_WAIT_S else logging.DEBUG,
                    "%s; trying again",
                    error,
                    extra={"session": session},
                )
            metrics.append_retries.inc()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
