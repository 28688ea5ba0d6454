"""Mirrors of states' memory on the host: slots allocated once, page-locked where the device is a GPU.

Copies run on streams of their own, one each way, ordered by events: neither the device thread nor the other
sessions' steps wait for them. On a CPU the same calls copy between plain memory, and are over when they
return. Device thread only.
"""

from __future__ import annotations

import contextlib
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.worker.host_memory import HostMemory
from services.worker.models.protocol import Memory, Part
from services.worker.pinning import PageLocked

_PIECE_BYTES = 64 << 20


@dataclass(eq=False, slots=True)
class Mirror:
    """One state's bytes in a slot of the pool. `versions`: of the state's parts, as the slot has them, or
    will, once all it was told is done. Empty: it has nothing yet.
    """

    slot: int
    versions: Mapping[str, int] = field(default_factory=dict)


class Copying:
    """A copy that may still be under way. `bytes`: how much there was to copy."""

    def __init__(self, size_bytes: int, host_s: float, begun: Any = None, ended: Any = None) -> None:
        self.bytes = size_bytes
        self.ended = ended
        self._begun, self._host_s = begun, host_s

    @property
    def over(self) -> bool:
        return self.ended is None or bool(self.ended.query())

    @property
    def duration_s(self) -> float:
        """Once it is over."""
        if self.ended is None:
            return self._host_s
        return float(self._begun.elapsed_time(self.ended)) / 1000


class HostPool:
    """`slots` mirrors of `slot_bytes` each. Dropping it unlocks them, once copies under way are over."""

    def __init__(self, slots: int, slot_bytes: int, device: str, memory: HostMemory | None = None) -> None:
        """`memory`: set aside already, at least as much as that takes."""
        self.size_bytes = slots * slot_bytes
        self._free = list(reversed(range(slots)))
        self._lanes = _Lanes(device, slots) if device.startswith("cuda") else None
        memory = memory or HostMemory(self.size_bytes)
        if self._lanes is not None and slots:
            weakref.finalize(self, _unlock, self._lanes, memory.lock(device)).atexit = False
        self._memory = memory.rows(slots, slot_bytes)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def lease(self) -> Mirror | None:
        """None: no slot is free."""
        return Mirror(self._free.pop()) if self._free else None

    def free(self, mirror: Mirror) -> None:
        """Whatever is still copied into the slot, or out of it, comes before what its next owner copies."""
        assert mirror.slot not in self._free, f"slot {mirror.slot} is free already"
        mirror.versions = {}
        self._free.append(mirror.slot)

    def save(
        self,
        mirror: Mirror,
        memory: Memory,
        parts: Mapping[str, Part],
        after: Any = None,
        *,
        urgent: bool = False,
    ) -> Copying:
        """Those parts that the mirror has in another version (all of the memory, if it has none), as the
        device will have them after the event `after`, or (None) all it was told so far. `urgent`: not behind
        other states' copies.
        """
        changed = [part for name, part in parts.items() if mirror.versions.get(name) != part.version]
        spans = [span for part in changed for span in part.spans] if mirror.versions else [(0, len(memory))]
        lane = "leaving" if urgent else "out"
        copying = self._copy(self._memory[mirror.slot], memory, spans, mirror.slot, lane, after)
        mirror.versions = {name: part.version for name, part in parts.items()}
        return copying

    def load(self, mirror: Mirror, memory: Memory, after: Any = None) -> Copying:
        """All of it, by one copy. `join` before the device uses it. `after`: the event after which `memory`
        may be written; None: all that the device was told so far, of whichever session.
        """
        whole = [(0, len(memory))]
        return self._copy(memory, self._memory[mirror.slot], whole, mirror.slot, "in", after)

    def join(self, copying: Copying) -> None:
        """What the device is told from now on comes after this copy. Nobody waits here."""
        if self._lanes is not None and copying.ended is not None:
            self._lanes.current().wait_event(copying.ended)

    def fence(self) -> Callable[[], None]:
        """For any thread: returns once the device has done all it was told up to now."""
        if self._lanes is None:
            return lambda: None
        told: Callable[[], None] = self._lanes.current().record_event().synchronize
        return told

    def _copy(
        self,
        into: Any,
        source: Any,
        spans: list[tuple[int, int]],
        slot: int,
        lane: str,
        after: Any,
    ) -> Copying:
        size_bytes, started = sum(end - start for start, end in spans), time.perf_counter()
        if self._lanes is None:
            into, source = np.asarray(into), np.asarray(source)
            for start, end in spans:
                into[start:end] = source[start:end]
            return Copying(size_bytes, time.perf_counter() - started)
        with self._lanes.aside(slot, lane, after) as (begun, ended):
            for start, end in _cut(spans):
                into[start:end].copy_(source[start:end], non_blocking=True)
        return Copying(size_bytes, 0.0, begun, ended)


def _cut(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Into pieces of about a millisecond, between which another stream's copy comes to its turn."""
    for start, end in spans:
        for begin in range(start, end, _PIECE_BYTES):
            yield begin, min(begin + _PIECE_BYTES, end)


class _Lanes:
    """A GPU's streams for copies: out, out for those that leave, and in."""

    def __init__(self, device: str, slots: int) -> None:
        self._cuda: Any = sys.modules["torch"].cuda
        self._device = device
        self._streams = {lane: self._cuda.Stream(device) for lane in ("out", "leaving", "in")}
        self._last: list[Any] = [None] * slots

    def current(self) -> Any:
        return self._cuda.current_stream(self._device)

    @contextlib.contextmanager
    def aside(self, slot: int, name: str, after: Any) -> Iterator[tuple[Any, Any]]:
        """What is told inside comes after the event `after`, or (None) all that the device was told, and
        after the slot's last copy.
        """
        lane = self._streams[name]
        begun, ended = (self._cuda.Event(enable_timing=True) for _ in range(2))
        lane.wait_event(after or self.current().record_event())
        if self._last[slot] is not None:
            lane.wait_event(self._last[slot])
        with self._cuda.stream(lane):
            begun.record(lane)
            yield begun, ended
            ended.record(lane)
        self._last[slot] = ended

    def settle(self) -> None:
        """Returns when no copy is under way."""
        for stream in self._streams.values():
            stream.synchronize()


def _unlock(lanes: _Lanes, locked: PageLocked) -> None:
    """Also where the device has failed, and there is nothing to wait for."""
    try:
        lanes.settle()
    finally:
        locked.release()
