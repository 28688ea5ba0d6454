"""What all moves of a worker share, and how both sides tell of theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from services.worker import metrics
from services.worker.carry import LinkRates, Picture
from services.worker.copies import Copy
from services.worker.engine import Engine
from services.worker.holdings import Holdings
from services.worker.mover.links import Links
from services.worker.moving.patience import Patience
from services.worker.states import States
from services.worker.tiers import DEVICE
from services.worker.transfer.choose import kind_of
from shared.bus import Refused
from shared.contracts.fleet import PhaseTime
from shared.contracts.moves import CallOff, Compatibility, Move, MoveNews
from shared.contracts.subjects import CALL_OFF, MOVE_NEWS

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What may be sent in the pause rather than in another round: a millisecond's worth, or ten.
_REST_BYTES = {"ipc": 128 << 20, "nccl": 128 << 20, "tcp": 16 << 20}
_TRIES = 60


@dataclass(frozen=True, slots=True)
class Port:
    """`picture`: of any session of this worker. `patience_s`: how long a frozen session waits for the target,
    and everything else in proportion.
    """

    holdings: Holdings
    links: Links
    engine: Engine
    states: States
    compatibility: Compatibility
    picture: Picture
    patience_s: float
    checksums: bool
    rates: LinkRates = field(default_factory=LinkRates)

    def patience(self, transport: str) -> Patience:
        unit_s = self.patience_s
        return Patience(5 * unit_s, unit_s, 7 * unit_s, unit_s, _REST_BYTES[kind_of(transport)])

    async def errand(self, work: Callable[[], T]) -> T:
        """On the device thread, without waiting for the end of a step that the device is at. Raises what
        `work` raises, or `Refused` if the device thread has too much to do, or has ended.
        """
        try:
            done = asyncio.wrap_future(self.engine.errands.put(work, soon=True))
        except RuntimeError as error:
            raise Refused("busy", str(error), "try again in a moment") from None
        await asyncio.wait({done}, timeout=5 * self.patience_s)
        if done.cancelled():
            raise Refused("draining", "this worker stops", "choose another worker")
        if not done.done():
            done.cancel()
            raise Refused("busy", "the device thread is at one step for long", "try again in a moment")
        return done.result()

    async def fetch(self, copy: Copy) -> None:
        """A suspended state comes to the device beside steps. To `hold` it right away would have the next
        step of whoever plays here wait for it. Raises as `errand` does.
        """
        await self.errand(lambda: self.states.stow(copy, DEVICE))

    async def let_go(self, copy: Copy) -> None:
        """Its state was held or reserved: no more. However late the device thread comes to it."""
        for _ in range(_TRIES):
            try:
                done = self.engine.errands.put(lambda: self.states.let_go(copy), soon=True)
            except RuntimeError:
                await asyncio.sleep(self.patience_s)
                continue
            await asyncio.wait({asyncio.wrap_future(done)}, timeout=5 * self.patience_s)
            return
        logger.error("the device thread hangs: a state stays held", extra={"session": copy.session})

    async def call_off(self, worker: str, move: Move, why: str) -> None:
        desk = self.holdings.desk
        await desk.bus.publish(CALL_OFF.at(cell=desk.cell, worker=worker), CallOff(move.move_id, why))


@dataclass(slots=True)
class Account:
    """One side's account of a move: `lap` ends a phase, `say` publishes."""

    port: Port
    move: Move
    sent_bytes: int = 0
    _phases: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """What passed since the one before. A phase that comes again adds up."""
        now = time.monotonic()
        passed_s, self._since = now - self._since, now
        self._phases[name] = self._phases.get(name, 0.0) + passed_s
        side = "leaving" if self.move.source == self.port.holdings.desk.worker else "arriving"
        metrics.move_seconds.labels(side, name).observe(passed_s)

    async def end(self, outcome: str, why: str) -> None:
        metrics.moves.labels(outcome).inc()
        await self.say(outcome, why)

    async def say(self, state: str, why: str = "", at: float | None = None) -> None:
        """`at`: wall clock, None: now."""
        desk = self.port.holdings.desk
        news = MoveNews(
            self.move.move_id,
            self.move.session,
            desk.worker,
            state,
            time.time() if at is None else at,
            why,
            [PhaseTime(name, passed_s) for name, passed_s in self._phases.items()],
            self.sent_bytes,
        )
        await desk.bus.publish(MOVE_NEWS.at(cell=desk.cell, worker=desk.worker), news)
