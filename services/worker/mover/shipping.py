"""The bytes of a move, as they leave: each stage is announced to the target, and sent beside that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.worker.mover.links import Transfer
from services.worker.mover.port import Port
from services.worker.moving.patience import REST
from services.worker.transfer.link import LinkLost, LinkRefused
from services.worker.transfer.manifest import Span, checksum_of, cut, merge, tag_of, without
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.moves import HandOver, Move, Stage
from shared.contracts.subjects import STAGE

FAILURES = (LinkLost, LinkRefused, Refused, NoAnswer, BusAway, TimeoutError)


@dataclass(slots=True)
class Shipping:
    """`offered`: the target's transports. `memory`: the state's, held. `transport`: the one in use, once
    there is a link. Every `fence` returns once the device has done what the spans' versions speak of.
    Whatever fails raises one of `FAILURES`.
    """

    port: Port
    move: Move
    offered: Sequence[str]
    memory: Any
    transport: str = ""
    free_at: float = 0.0
    """By the monotonic clock: when the target's device is, as far as it said."""
    _covered: list[Span] = field(default_factory=list)

    async def link(self, wait_s: float) -> None:
        self.transport = await self.port.links.open_best(self.move.target, self.offered, wait_s)

    async def send_ahead(
        self, stage: int, spans: list[Span], until: float, fence: Callable[[], None]
    ) -> None:
        """While the session goes on. `until`: monotonic."""
        announced = self._stage(stage, spans, until)
        try:
            await self._send(announced, until, fence)
        except Refused as error:
            if error.refusal.code != "no_link":
                raise
            # The target has closed its end since the last move.
            left_s, links = until - time.monotonic(), self.port.links
            self.transport = await links.open_best(self.move.target, self.offered, left_s, anew=True)
            await self._send(self._stage(stage, spans, until), until, fence)

    async def send_rest(
        self, spans: list[Span], until: float, fence: Callable[[], None], hand_over: HandOver
    ) -> None:
        """After the freeze."""
        checksum = await self._checksum(without([*self._covered, *spans], hand_over.void), fence)
        announced = self._stage(REST, spans, until, checksum, hand_over)
        await self._send(announced, until, fence)

    def _stage(
        self,
        stage: int,
        spans: list[Span],
        until: float,
        checksum: str = "",
        hand_over: HandOver | None = None,
    ) -> Stage:
        move_id, transport = self.move.move_id, self.transport
        return Stage(move_id, stage, spans, _wall(until), checksum, hand_over, transport)

    async def _checksum(self, spans: list[Span], fence: Callable[[], None]) -> str:
        """ "": nobody asked for that."""
        if not self.port.checksums:
            return ""
        return await asyncio.to_thread(_checksum_behind, fence, cut(self.memory, spans))

    async def _send(self, stage: Stage, until: float, fence: Callable[[], None]) -> None:
        """The announcement and the bytes go at once: neither waits for the other."""
        self._covered = merge([*self._covered, *stage.spans])
        asking = asyncio.ensure_future(self._announce(stage, until))
        tag = tag_of(self.move.move_id, stage.stage)
        transfer = Transfer(cut(self.memory, stage.spans), tag, until, fence)
        sending = self.port.links.send(self.move.target, self.transport, transfer)
        both: set[asyncio.Future[Any]] = {asking, sending}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and not sending.done():
                asking.result()
            await asyncio.wait({sending})  # to await it would cancel it with this task, and not its thread
            sending.result()
        finally:
            await self._finish(asking, sending)

    async def _announce(self, stage: Stage, until: float) -> None:
        desk = self.port.holdings.desk
        address = STAGE.at(cell=desk.cell, worker=self.move.target)
        staged = await desk.bus.request(address, stage, max(0.0, until - time.monotonic()))
        self.free_at = time.monotonic() + staged.busy_s

    async def _finish(self, asking: asyncio.Future[None], sending: asyncio.Future[None]) -> None:
        """No thread reads the state any more when this returns."""
        asking.cancel()
        if not sending.done():
            self.port.links.abort(self.move.target)
        await asyncio.wait({asking, sending})
        for done in (asking, sending):
            _ = done.cancelled() or done.exception()  # told already, or of no interest any more


def _checksum_behind(fence: Callable[[], None], buffers: list[Any]) -> str:
    fence()
    return checksum_of(buffers)


def _wall(monotonic: float) -> float:
    return time.time() + max(0.0, monotonic - time.monotonic())
