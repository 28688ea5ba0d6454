"""Mirrors of states' memory on the host: slots allocated once, page-locked where the device is a GPU.

Copies run on streams of their own, one each way, ordered by events: neither the device thread nor the other
sessions' steps wait for them. Those to the host are queued (`outward`) and told by `pump`, a few at a time.
On a CPU the same calls copy between plain memory, and are over when they return. Device thread only.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from services.worker.host_memory import HostMemory
from services.worker.models.protocol import Final, Memory, Part
from services.worker.outward import Outward, Piece
from services.worker.pinning import PageLocked

_PIECE_BYTES = 64 << 20
_MOST_WAITING = 2
"""States' sizes: a mirror that more would wait for is copied as a whole instead."""


@dataclass(eq=False, slots=True)
class Mirror:
    """One state's bytes in a slot of the pool. `versions`: of the state's parts, as the slot has them, or
    will, once all it was told is done. Empty: it has nothing yet.
    """

    slot: int
    versions: Mapping[str, int] = field(default_factory=dict)


class Copying:
    """A copy that may still be under way. `bytes`: how much there was to copy. `first`, `last`: with the end
    of `last` it is over, and so is all that was to come before it; None: it was when it was begun.
    """

    def __init__(
        self, size_bytes: int, host_s: float = 0.0, first: Piece | None = None, last: Piece | None = None
    ) -> None:
        self.bytes = size_bytes
        self.last = last
        self._first, self._host_s = first, host_s

    @property
    def over(self) -> bool:
        return self.last is None or self.last.over

    @property
    def duration_s(self) -> float:
        """Once it is over: from the first of its own bytes on."""
        first, last = self._first, self.last
        if first is None or last is None or first.begun is None or last.ended is None:
            return self._host_s
        return float(first.begun.elapsed_time(last.ended)) / 1000


class Lanes(Protocol):
    """A device's two streams for copies."""

    def told(self) -> Any:
        """An event: over once the device has done all it was told so far."""

    def copy(self, lane: str, into: Any, source: Any, after: Sequence[Any]) -> tuple[Any, Any]:
        """On the lane "out" or "in", behind what is told there already and these events. Returns the events
        of its beginning and its end.
        """

    def join(self, event: Any) -> None:
        """What the device is told from now on comes after it."""

    def settle(self) -> None:
        """Returns when no copy is under way."""


class HostPool:
    """`slots` mirrors of `slot_bytes` each. Dropping it unlocks them, once copies under way are over."""

    _piece_bytes = _PIECE_BYTES

    def __init__(
        self,
        slots: int,
        slot_bytes: int,
        device: str,
        memory: HostMemory | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        """`memory`: set aside already, at least as much as that takes. `lanes`: None: the device's own, if it
        has any.
        """
        self.size_bytes, self._slot_bytes = slots * slot_bytes, slot_bytes
        self._free = list(reversed(range(slots)))
        cuda = device.startswith("cuda")
        self._lanes = lanes or (_Streams(device) if cuda else None)
        self._outward = None if self._lanes is None else Outward(partial(self._lanes.copy, "out"))
        self._loads: dict[int, Piece] = {}
        memory = memory or HostMemory(self.size_bytes)
        if cuda and self._lanes is not None and slots:
            weakref.finalize(self, _unlock, self._lanes, memory.lock(device)).atexit = False
        self._memory = memory.rows(slots, slot_bytes)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def lease(self) -> Mirror | None:
        """None: no slot is free."""
        return Mirror(self._free.pop()) if self._free else None

    def free(self, mirror: Mirror) -> None:
        """Whatever is still copied into the slot, or out of it, comes before what its next owner copies. What
        waits to be copied into it never is.
        """
        assert mirror.slot not in self._free, f"slot {mirror.slot} is free already"
        mirror.versions = {}
        if self._outward is not None:
            self._outward.drop(mirror.slot)
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
        device will have them after the event `after`, or (None) all it was told so far. It is over when the
        mirror has all that it was ever told. `urgent`: not behind other states' copies.
        """
        changed = [part for name, part in parts.items() if mirror.versions.get(name) != part.version]
        spans = [span for part in changed for span in part.spans]
        if self._begins_anew(mirror, sum(end - start for start, end in spans)):
            spans = [(0, len(memory))]
        copying = self._out(mirror, memory, [Final(*span, after) for span in spans], urgent=urgent)
        mirror.versions = {name: part.version for name, part in parts.items()}
        return copying

    def save_ahead(
        self, mirror: Mirror, memory: Memory, parts: Mapping[str, Part], final: Mapping[str, Sequence[Final]]
    ) -> frozenset[str]:
        """Of parts that the device has just been told to write: each span once it is final. Returns which;
        none, where the mirror has nothing yet.
        """
        lacking = {name for name in final if mirror.versions.get(name) != parts[name].version}
        spans = sorted((span for name in lacking for span in final[name]), key=lambda span: span.start)
        if self._begins_anew(mirror, sum(span.end - span.start for span in spans)):
            return frozenset()
        self._out(mirror, memory, spans, urgent=False)
        mirror.versions = {**mirror.versions, **{name: parts[name].version for name in lacking}}
        return frozenset(lacking)

    def load(self, mirror: Mirror, memory: Memory, after: Any = None) -> Copying:
        """All of it, by one copy. `join` before the device uses it. `after`: the event after which `memory`
        may be written; None: all that the device was told so far, of whichever session. Raises `RuntimeError`
        if a copy to the mirror failed.
        """
        row, started = self._memory[mirror.slot], time.perf_counter()
        if self._lanes is None or self._outward is None:
            np.asarray(memory)[:] = np.asarray(row)
            return Copying(len(memory), time.perf_counter() - started)
        self._outward.flush(mirror.slot)
        if self._outward.has_failed(mirror.slot):
            raise RuntimeError("a copy to host memory failed, so this state isn't whole there")
        last = self._outward.last(mirror.slot)
        before = [after or self._lanes.told(), *([] if last is None else [last.ended])]
        piece = Piece(mirror.slot, None, None)
        piece.begun, piece.ended = self._lanes.copy("in", memory, row, before)
        self._loads[mirror.slot] = piece
        return Copying(len(memory), 0.0, piece, piece)

    def join(self, copying: Copying) -> None:
        """What the device is told from now on comes after this copy. Nobody waits here."""
        last = copying.last
        if self._lanes is None or self._outward is None or last is None or last.dropped:
            return
        if last.ended is None:
            self._outward.flush(last.slot)
        if last.ended is not None:
            self._lanes.join(last.ended)

    @property
    def waiting(self) -> bool:
        """Whether `pump` is to be called soon again."""
        return self._outward is not None and self._outward.waiting

    @property
    def waiting_bytes(self) -> int:
        return 0 if self._outward is None else self._outward.waiting_bytes()

    def pump(self) -> set[int]:
        """Tell the device what may be copied now. Every millisecond or so; never raises. Returns the slots of
        mirrors that aren't whole, since a copy failed.
        """
        if self._outward is None:
            return set()
        self._outward.pump()
        return self._outward.failed()

    def fence(self) -> Callable[[], None]:
        """For any thread: returns once the device has done all it was told up to now."""
        if self._lanes is None:
            return lambda: None
        told: Callable[[], None] = self._lanes.told().synchronize
        return told

    def _begins_anew(self, mirror: Mirror, size_bytes: int) -> bool:
        """It has nothing, or so much more would be more than may wait: then nothing does any more, and all is
        to be copied.
        """
        waiting = 0 if self._outward is None else self._outward.waiting_bytes(mirror.slot)
        if mirror.versions and waiting + size_bytes <= _MOST_WAITING * self._slot_bytes:
            return False
        if self._outward is not None:
            self._outward.drop(mirror.slot)
        mirror.versions = {}
        return True

    def _out(self, mirror: Mirror, memory: Any, spans: Sequence[Final], *, urgent: bool) -> Copying:
        row, slot, started = self._memory[mirror.slot], mirror.slot, time.perf_counter()
        size_bytes = sum(end - start for start, end, _ in spans)
        if self._lanes is None or self._outward is None:
            into, source = np.asarray(row), np.asarray(memory)
            for start, end, _ in spans:
                into[start:end] = source[start:end]
            return Copying(size_bytes, time.perf_counter() - started)
        told = self._lanes.told() if any(span.after is None for span in spans) else None
        before = self._loaded(slot)
        pieces = [
            Piece(slot, row[start:end], memory[start:end], (span.after or told, *before), end - start)
            for span in spans
            for start, end in _cut(span.start, span.end, self._piece_bytes)
        ]
        self._outward.put(pieces, slot, urgent=urgent)
        self._outward.pump()
        return Copying(size_bytes, 0.0, pieces[0] if pieces else None, self._outward.last(slot))

    def _loaded(self, slot: int) -> tuple[Any, ...]:
        """The end of the copy that still reads that slot, if there is one."""
        piece = self._loads.get(slot)
        return () if piece is None or piece.over else (piece.ended,)


def _cut(start: int, end: int, most_bytes: int = _PIECE_BYTES) -> Iterator[tuple[int, int]]:
    """Into pieces of about a millisecond, between which another copy comes to its turn."""
    for begin in range(start, end, most_bytes):
        yield begin, min(begin + most_bytes, end)


class _Streams:
    """A GPU's `Lanes`."""

    def __init__(self, device: str) -> None:
        self._cuda: Any = sys.modules["torch"].cuda
        self._device = device
        self._streams = {lane: self._cuda.Stream(device) for lane in ("out", "in")}

    def told(self) -> Any:
        return self._cuda.current_stream(self._device).record_event()

    def join(self, event: Any) -> None:
        self._cuda.current_stream(self._device).wait_event(event)

    def copy(self, lane: str, into: Any, source: Any, after: Sequence[Any]) -> tuple[Any, Any]:
        stream = self._streams[lane]
        begun, ended = (self._cuda.Event(enable_timing=True) for _ in range(2))
        for event in after:
            stream.wait_event(event)
        with self._cuda.stream(stream):
            begun.record(stream)
            for start, end in _cut(0, len(into)):
                into[start:end].copy_(source[start:end], non_blocking=True)
            ended.record(stream)
        return begun, ended

    def settle(self) -> None:
        for stream in self._streams.values():
            stream.synchronize()


def _unlock(lanes: Lanes, locked: PageLocked) -> None:
    """Also where the device has failed, and there is nothing to wait for."""
    try:
        lanes.settle()
    finally:
        locked.release()
