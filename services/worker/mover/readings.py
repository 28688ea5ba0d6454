"""What the source of a move reads of a state. On the device thread, by errands and at boundaries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from services.worker.copies import Copy
from services.worker.models.protocol import Memory, Part
from services.worker.moving.patience import PartVersion
from services.worker.states import States
from services.worker.transfer.manifest import Span, merge

logger = logging.getLogger(__name__)

Fence = Callable[[], None]
Parts = Mapping[str, Part]


class Held(NamedTuple):
    """`fence` returns once the device has done what `parts` speak of: versions grow before it has."""

    memory: Memory
    fence: Fence
    parts: Parts


class Reading(NamedTuple):
    """The state at a boundary. `at`: wall clock. `tail`: the parts that the decode of the chunk before still
    changes.
    """

    next_chunk: int
    fence: Fence
    parts: Parts
    counters: bytes
    shown: str
    at: float
    tail: frozenset[str] = frozenset()

    @property
    def tail_spans(self) -> list[Span]:
        return merge(span for name in self.tail for span in self.parts[name].spans)


def hold(states: States, copy: Copy) -> Held | None:
    """Keep the state in its place; None: there is none. What a part's version is before its bytes are read is
    right: if they change, they are sent again. Raises `NoRoom`.
    """
    if not states.hold(copy):
        return None
    return Held(states.memory(copy), states.fence(), states.parts(copy))


def read(states: States, copy: Copy) -> Reading:
    """Of a held and frozen copy without a chunk on the device."""
    counters = msgspec.msgpack.encode(states.counters(copy))
    parts, shown = states.parts(copy), states.shown(copy)
    return Reading(copy.next_chunk, states.fence(), parts, counters, shown, time.time())


def read_early(states: States, copy: Copy) -> Reading | None:
    """Of a held and frozen copy whose chunk is to be decoded next. None: its model can't tell so early."""
    told = states.denoised(copy)
    if told is None:
        return None
    counters, parts, shown = msgspec.msgpack.encode(told.counters), states.parts(copy), states.shown(copy)
    return Reading(copy.next_chunk, states.fence(), parts, counters, shown, time.time(), told.tail)


def versions(parts: Parts) -> dict[str, PartVersion]:
    return {
        name: PartVersion(part.version, sum(end - start for start, end in part.spans))
        for name, part in parts.items()
    }


class Reader:
    """One move's, made on the event loop, where `hear` and `failed` are called. The engine calls the rest, on
    the device thread.
    """

    def __init__(
        self, states: States, copy: Copy, hear: Callable[[Reading], None], failed: Callable[[str], None]
    ) -> None:
        self._states, self._copy = states, copy
        self._hear, self._failed = hear, failed
        self._generation = copy.generation
        self._loop = asyncio.get_running_loop()

    def at_boundary(self) -> None:
        """The frozen copy has no chunk on the device."""
        self._read(read)

    def at_denoised(self) -> None:
        """The frozen copy's chunk is decoded next."""
        self._read(read_early)

    def _read(self, how: Callable[[States, Copy], Reading | None]) -> None:
        copy = self._copy
        try:
            if copy.ended or copy.gone or copy.generation != self._generation:
                self._tell(self._failed, "the copy ended, or began anew")
            elif (reading := how(self._states, copy)) is not None:
                self._tell(self._hear, reading)
        except Exception as error:
            logger.exception("reading a state failed", extra={"session": copy.session})
            self._tell(self._failed, f"{type(error).__name__}: {error}")

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)
