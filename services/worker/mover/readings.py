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

Fence = Callable[[], None]
Parts = Mapping[str, Part]


class Held(NamedTuple):
    """`fence` returns once the device has done what `parts` speak of: versions grow before it has."""

    memory: Memory
    fence: Fence
    parts: Parts


class Reading(NamedTuple):
    """The state at a boundary. `at`: wall clock."""

    next_chunk: int
    fence: Fence
    parts: Parts
    counters: bytes
    shown: str
    at: float


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


def versions(parts: Parts) -> dict[str, PartVersion]:
    return {
        name: PartVersion(part.version, sum(end - start for start, end in part.spans))
        for name, part in parts.items()
    }
