"""The bytes of a move, as they come: each stage is announced by the source, and taken beside that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from services.worker.mover.links import Links, Transfer
from services.worker.moving.patience import REST
from services.worker.transfer.manifest import (
    ManifestRefused,
    Span,
    check_spans,
    checksum_of,
    cut,
    merge,
    tag_of,
    without,
)
from shared.bus import Refused
from shared.contracts.moves import HandOver, Move, Stage


class Receiving:
    """`memory`: what was reserved for the state; `fence` returns once the device has made it ready.
    `hand_over` and `counters` come with the rest.
    """

    def __init__(
        self, links: Links, move: Move, state_bytes: int, memory: Any, fence: Callable[[], None]
    ) -> None:
        self.hand_over: HandOver | None = None
        self.counters: dict[str, Any] = {}
        self._links, self._move, self._state_bytes = links, move, state_bytes
        self._memory, self._fence = memory, fence
        self._covered: list[Span] = []
        self._stages: set[int] = set()
        self._arriving: set[asyncio.Future[None]] = set()

    @property
    def begun(self) -> bool:
        return bool(self._stages)

    def take(self, stage: Stage) -> asyncio.Future[None]:
        """The bytes are on their way; done once they are here. Raises `Refused`."""
        left_s = stage.deadline_at - time.time()
        if left_s <= 0:
            raise Refused("too_late", "the stage's deadline has passed")
        self._check(stage)
        tag, until = tag_of(self._move.move_id, stage.stage), time.monotonic() + left_s
        transfer = Transfer(cut(self._memory, stage.spans), tag, until, self._fence)
        arriving = self._links.receive(self._move.source, stage.transport, transfer)
        self._arriving.add(arriving)
        self._stages.add(stage.stage)
        self._covered = merge([*self._covered, *stage.spans])
        self.hand_over = stage.hand_over or self.hand_over
        return arriving

    def _check(self, stage: Stage) -> None:
        try:
            check_spans(stage.spans, self._state_bytes)
            if (stage.stage == REST) != (stage.hand_over is not None) or stage.stage in self._stages:
                raise ManifestRefused(f"stage {stage.stage} came twice, or not with what belongs to it")
            if stage.hand_over is not None:
                check_spans(stage.hand_over.void, self._state_bytes)
                self.counters = msgspec.msgpack.decode(stage.hand_over.counters, type=dict[str, Any])
        except ManifestRefused as error:
            raise Refused("bad_spans", str(error)) from None
        except msgspec.DecodeError as error:
            raise Refused("bad_counters", f"the state's counters can't be read: {error}") from None

    async def verify(self, stage: Stage) -> None:
        """Raises `ManifestRefused`. Without a checksum nobody asked for that."""
        if not stage.checksum:
            return
        spans = without(self._covered, self.hand_over.void if self.hand_over is not None else [])
        if await asyncio.to_thread(checksum_of, cut(self._memory, spans)) != stage.checksum:
            raise ManifestRefused(f"other bytes arrived by move {self._move.move_id} than were sent")

    async def stop(self) -> None:
        """No thread writes to the memory any more when this returns; each has a deadline of its own."""
        if under_way := {arriving for arriving in self._arriving if not arriving.done()}:
            self._links.abort(self._move.source)
            await asyncio.wait(under_way)
