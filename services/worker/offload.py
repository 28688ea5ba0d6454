"""Exported states in host memory: slots allocated once, pinned where the device is a GPU.

Copies run on a stream of their own, ordered by events, so neither the device thread nor the other sessions'
steps wait for them. On a CPU the same code copies between plain memory. Device thread only.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

_ALIGNMENT_BYTES = 64


class _Tensor(NamedTuple):
    name: str
    start: int
    end: int
    shape: tuple[int, ...]
    dtype: Any


class Stored(NamedTuple):
    """One state in the pool. `kept`: what needs no slot, such as numbers and tensors not on the device."""

    slot: int
    tensors: tuple[_Tensor, ...]
    kept: Mapping[str, Any]


class HostPool:
    """`slots` states of up to `slot_bytes` each. Without torch (models without it exist) it holds what
    they export as it is.
    """

    def __init__(self, slots: int, slot_bytes: int, device: str) -> None:
        self._torch: Any = sys.modules.get("torch")
        self._free = list(reversed(range(slots)))
        self._stream: Any = None
        self.size_bytes = slots * slot_bytes
        if self._torch is not None and slots:
            self._device = self._torch.device(device)
            on_gpu = self._device.type == "cuda"
            self._memory = self._torch.empty((slots, slot_bytes), dtype=self._torch.uint8, pin_memory=on_gpu)
            self._stream = self._torch.cuda.Stream(self._device) if on_gpu else None

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def store(self, exported: Mapping[str, Any]) -> Stored | None:
        """None: no slot is free, or the state doesn't fit one. `exported` must not change any more."""
        if not self._free:
            return None
        tensors = tuple(self._layout(exported))
        if tensors and tensors[-1].end > self._memory.shape[1]:
            return None
        slot = self._free.pop()
        with self._aside() as stream:
            for place in tensors:
                source = exported[place.name]
                self._memory[slot, place.start : place.end].copy_(self._bytes(source), non_blocking=True)
                if stream is not None:
                    source.record_stream(stream)
        packed = {place.name for place in tensors}
        return Stored(slot, tensors, {n: value for n, value in exported.items() if n not in packed})

    def load(self, stored: Stored) -> dict[str, Any]:
        """What was exported, back on the device by one copy (on a CPU: the pool's own memory). `free` the
        slot once a state was made of it.
        """
        if not stored.tensors:
            return dict(stored.kept)
        held = self._memory[stored.slot, : stored.tensors[-1].end]
        with self._aside() as stream:
            if stream is not None:
                held = held.to(self._device, non_blocking=True)
        if stream is not None:
            current = self._torch.cuda.current_stream(self._device)
            current.wait_event(stream.record_event())
            held.record_stream(current)
        loaded = {t.name: held[t.start : t.end].view(t.dtype).view(t.shape) for t in stored.tensors}
        return {**stored.kept, **loaded}

    def free(self, stored: Stored) -> None:
        """Later copies into the slot come after those out of it: they share a stream."""
        self._free.append(stored.slot)

    def _layout(self, exported: Mapping[str, Any]) -> Iterator[_Tensor]:
        start = 0
        for name, value in exported.items():
            if self._torch is None or not isinstance(value, self._torch.Tensor):
                continue
            if value.device.type == self._device.type:
                end = start + prod(value.shape) * value.dtype.itemsize
                yield _Tensor(name, start, end, tuple(value.shape), value.dtype)
                start = -(-end // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    def _bytes(self, tensor: Any) -> Any:
        return tensor.contiguous().reshape(-1).view(self._torch.uint8)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Any]:
        """Work inside runs on the pool's own stream, after what the device was told so far."""
        if self._stream is None:
            yield None
            return
        self._stream.wait_event(self._torch.cuda.current_stream(self._device).record_event())
        with self._torch.cuda.stream(self._stream):
            yield self._stream
