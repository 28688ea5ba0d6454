"""What the source of a move reads of a state. On the device thread, by errands and between steps."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from services.worker.copies import Copy
from services.worker.making import Making, told
from services.worker.models.protocol import Memory, Part
from services.worker.moving.patience import PartVersion
from services.worker.states import States
from services.worker.transfer.manifest import Span, merge
from shared.contracts.moves import UnderWay

logger = logging.getLogger(__name__)

Fence = Callable[[], None]
Parts = Mapping[str, Part]


class Held(NamedTuple):
    """`parts`: those worth reading while the session goes on. `fence` returns once the device has done what
    they speak of: versions grow before it has.
    """

    memory: Memory
    fence: Fence
    parts: Parts


class Reading(NamedTuple):
    """The state between two steps. `parts`: without those that the rest of a chunk under way writes before it
    reads them, which are `void`. `next_chunk`: the one under way, if one is. `at`: wall clock.
    """

    next_chunk: int
    fence: Fence
    parts: Parts
    counters: bytes
    shown: str
    at: float
    under_way: UnderWay | None = None
    void: Sequence[Span] = ()


def hold(states: States, copy: Copy) -> Held | None:
    """Keep the state in its place; None: there is none. What a part's version is before its bytes are read is
    right: if they change, they are sent again. Raises `NoRoom`.
    """
    fence = states.hold(copy)
    return None if fence is None else Held(states.memory(copy), fence, states.settled_parts(copy))


def read(states: States, copy: Copy, chunk: Making | None) -> Reading:
    """Of a held and frozen copy, of which the device is at no step; `chunk`: the one under way."""
    parts, shown, at = states.parts(copy), states.shown(copy), time.time()
    if chunk is None:
        counters = msgspec.msgpack.encode(states.counters(copy))
        fence = states.fence(but_the_step=True)
        return Reading(copy.next_chunk, fence, parts, counters, shown, at)
    mid_chunk = states.mid_chunk(copy)
    void = merge(span for name in mid_chunk.void for span in parts[name].spans)
    parts = {name: part for name, part in parts.items() if name not in mid_chunk.void}
    counters = msgspec.msgpack.encode(mid_chunk.counters)
    under_way = told(chunk, time.monotonic())
    # Whatever wrote its memory came before one of its steps, of which none is under way.
    return Reading(chunk.order.index, _at_once, parts, counters, shown, at, under_way, void)


def _at_once() -> None:
    pass


def versions(parts: Parts) -> dict[str, PartVersion]:
    return {
        name: PartVersion(part.version, sum(end - start for start, end in part.spans))
        for name, part in parts.items()
    }


class Reader:
    """One move's, made on the event loop, where `hear` and `failed` are called."""

    def __init__(
        self, states: States, copy: Copy, hear: Callable[[Reading], None], failed: Callable[[str], None]
    ) -> None:
        self._states, self._copy = states, copy
        self._hear, self._failed = hear, failed
        self._generation = copy.generation
        self._loop = asyncio.get_running_loop()

    def at_boundary(self, chunk: Making | None) -> None:
        """The device is at no step of the frozen copy. `chunk`: its one under way."""
        copy = self._copy
        try:
            if copy.ended or copy.gone or copy.generation != self._generation:
                self._tell(self._failed, "the copy ended, or began anew")
            else:
                self._tell(self._hear, read(self._states, copy, chunk))
        except Exception as error:
            logger.exception("reading a state failed", extra={"session": copy.session})
            self._tell(self._failed, f"{type(error).__name__}: {error}")

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)
