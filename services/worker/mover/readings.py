"""What the source of a move reads of a state. On the device thread, by errands and at boundaries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from services.worker.copies import Copy
from services.worker.models.protocol import Memory, Part
from services.worker.moving.patience import PartVersion
from services.worker.states import States
from services.worker.transfer.manifest import Span, merge

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
