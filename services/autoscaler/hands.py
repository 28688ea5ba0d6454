"""Carries out what was planned, one thing after the other, each with a deadline: a provider may fail or
hang.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from services.autoscaler.provider import Provider
from services.autoscaler.settings import AutoscalerSettings
from services.autoscaler.steps import Steps
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.fleet import Drain
from shared.contracts.subjects import DRAIN
from shared.process import Process

logger = logging.getLogger(__name__)

_DRAIN_ANSWER_S = 2.0
_END_AGAIN_S = 30.0


class Hands:
    """`may_act`: whether this process still leads. `on_started` is told the ids of new workers, `on_failed`
    that a start failed.
    """

    def __init__(
        self,
        process: Process[AutoscalerSettings],
        provider: Provider,
        may_act: Callable[[], bool],
        on_started: Callable[[list[str]], None],
        on_failed: Callable[[], None],
    ) -> None:
        self._process = process
        self._settings = process.settings
        self._provider = provider
        self._may_act = may_act
        self._on_started = on_started
        self._on_failed = on_failed
        self._drain_until: dict[str, float] = {}

    async def carry_out(self, steps: Steps) -> bool:
        """Whether all of it was done; what was not is planned again."""
        done = True
        for worker, reason in steps.kill.items():
            logger.error("ending %s: %s", worker, reason)
            done &= await self._call(f"ending {worker}", partial(self._provider.kill, worker))
        if steps.stop:
            logger.info("giving back %s, which boot", ", ".join(steps.stop))
            done &= await self._call("giving workers back", partial(self._provider.stop, steps.stop))
        for worker in steps.let_go:
            done &= self._free_to_act() and await self._let_go(worker)
        for _ in range(steps.start):
            if not (self._free_to_act() and await self._start()):
                return False
        return done

    def forget(self, worker: str) -> None:
        self._drain_until.pop(worker, None)

    async def end_overdue(self) -> None:
        """End those that were let go and have not gone, again and again until they have."""
        now = time.monotonic()
        late = [worker for worker, until in self._drain_until.items() if now > until]
        self._drain_until |= dict.fromkeys(late, now + _END_AGAIN_S)
        if late:
            await self._call("ending drained workers", partial(self._provider.stop, late))

    def _free_to_act(self) -> bool:
        return self._may_act() and not self._process.stopping.is_set()

    async def _start(self) -> bool:
        """Whether it was."""
        try:
            async with asyncio.timeout(self._settings.provider_s):
                workers = list(await self._provider.start())
        except (OSError, TimeoutError) as error:
            logger.error("a worker can't be started: %s", _why(error, self._settings.provider_s))
            self._on_failed()
            return False
        self._on_started(workers)
        return True

    async def _let_go(self, worker: str) -> bool:
        """Whether it was told. Without an answer nothing is lost: the next plan asks again."""
        address = DRAIN.at(cell=self._settings.cell, worker=worker)
        until = time.time() + self._settings.drain_s
        try:
            await self._process.bus.request(address, Drain(deadline_at=until), _DRAIN_ANSWER_S)
        except (BusAway, NoAnswer, Refused) as error:
            logger.warning("%s was not told to go: %s", worker, error)
            return False
        logger.info("letting %s go", worker)
        self._provider.release(worker)
        self._drain_until[worker] = time.monotonic() + self._settings.drain_s
        return True

    async def _call(self, what: str, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether it went well; if it fails it will be made again."""
        if not self._may_act():
            return False
        deadline_s = self._settings.provider_s + self._settings.worker_stop_s
        try:
            async with asyncio.timeout(deadline_s):
                await call()
        except (OSError, TimeoutError) as error:
            logger.error("%s failed: %s", what, _why(error, deadline_s))
            return False
        return True


def _why(error: Exception, deadline_s: float) -> str:
    timed_out = isinstance(error, TimeoutError) and not str(error)
    return f"the provider didn't answer within {deadline_s:g} s" if timed_out else str(error)
