"""A session's state as one row of bytes, cut into named regions; and many such rows in one allocation.

A row is contiguous, so that suspending or moving a session is one copy. Slots are taken and given back,
never made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from services.worker.models.protocol import Part

_ALIGNMENT_BYTES = 256

Spans = tuple[tuple[int, int], ...]
"""[start, end) bytes of a row, in order."""


class NoSlot(RuntimeError):
    """Every slot of the pool holds a session. The message says how many there are."""


@dataclass(frozen=True)
class Region:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def room_bytes(self) -> int:
        """With what the next region's alignment costs."""
        return -(-self.size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


class Layout:
    """Regions one after the other, every one aligned."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = {region.name: region for region in regions}
        self._starts = {
            region.name: sum(before.room_bytes for before in regions[:number])
            for number, region in enumerate(regions)
        }
        self.row_bytes = sum(region.room_bytes for region in regions)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._regions)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Each region of `rows`, uint8 [..., row_bytes], as what it is: [..., *shape]."""
        return {
            name: rows[..., start : start + region.size_bytes].view(region.dtype).unflatten(-1, region.shape)
            for (name, start), region in zip(self._starts.items(), self._regions.values(), strict=True)
        }

    def whole(self, *names: str) -> Spans:
        """All of these regions, padding included."""
        starts = [(self._starts[name], self._regions[name].room_bytes) for name in names]
        return merged((start, start + room) for start, room in starts)

    def cut(self, name: str, axis: int, first: int, end: int) -> Spans:
        """A region's places first..end-1 along an axis; the last one has the padding."""
        region, start = self._regions[name], self._starts[name]
        size, inner = region.shape[axis], prod(region.shape[axis + 1 :]) * region.dtype.itemsize
        blocks = range(start, start + region.size_bytes, size * inner)
        spans = [(block + first * inner, block + end * inner) for block in blocks]
        if end == size:
            spans[-1] = (spans[-1][0], start + region.room_bytes)
        return merged(spans)


def merged(spans: Iterable[tuple[int, int]]) -> Spans:
    """In order, with those that adjoin made one."""
    together: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if together and together[-1][1] == start:
            start = together.pop()[0]
        together.append((start, end))
    return tuple(together)


class Versions:
    """Which of a state's parts was written when, by a count of its own. `spans`: the parts, by name."""

    def __init__(self, spans: Mapping[str, Spans]) -> None:
        self._spans = spans
        self._written = dict.fromkeys(spans, 0)
        self._now = 0

    def wrote(self, names: Iterable[str]) -> None:
        """What the device was told last gave these parts other bytes."""
        self._now += 1
        self._written |= dict.fromkeys(names, self._now)

    def parts(self) -> dict[str, Part]:
        return {name: Part(self._written[name], spans) for name, spans in self._spans.items()}


class Pool:
    """`slots` rows on one device. Not thread-safe: the device thread owns it."""

    def __init__(self, layout: Layout, slots: int, device: torch.device) -> None:
        self.layout = layout
        self._bytes = torch.zeros(slots, layout.row_bytes, dtype=torch.uint8, device=device)
        self._free = list(reversed(range(slots)))
        self._views = layout.views(self._bytes)
        self._blank: list[Any] = [self._told()] * slots
        self._soiled: set[int] = set()

    def __getitem__(self, name: str) -> Tensor:
        """A region of all slots: [slots, *shape], a view."""
        return self._views[name]

    @property
    def slots(self) -> int:
        return self._bytes.shape[0]

    @property
    def row_bytes(self) -> int:
        return self.layout.row_bytes

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def row(self, slot: int) -> Tensor:
        """All of a slot: uint8 [row_bytes], a view."""
        return self._bytes[slot]

    def take(self) -> int:
        """A slot of zeros: nothing of its last owner is left. Raises `NoSlot`."""
        if not self._free:
            raise NoSlot(f"all {self.slots} slots hold sessions; close or suspend one first")
        slot = next(filter(self._is_blank, reversed(self._free)), self._free[-1])
        self._free.remove(slot)
        if slot in self._soiled:
            self._wipe(slot)
        return slot

    def _is_blank(self, slot: int) -> bool:
        """Whether its wiping is over: one given back beside a long step waits for that."""
        return slot not in self._soiled and (self._blank[slot] is None or self._blank[slot].query())

    def soil(self) -> None:
        """Something was tried out on slots that nobody has: they are wiped when they are taken."""
        self._soiled.update(self._free)

    def blank(self, slot: int) -> Any:
        """Of one just taken: the device's event after which its last owner is out of it and it is zeros; no
        stream need wait for more. None: it is so now.
        """
        return self._blank[slot]

    def give_back(self, slot: int) -> None:
        """It is wiped at once: who takes it needn't wait for what others have told the device meanwhile. What
        was told for its last owner on another stream must be over, or joined.
        """
        assert slot not in self._free, f"slot {slot} is free already"
        self._soiled.add(slot)
        if not self._capturing():  # a graph would wipe it again at every replay
            self._wipe(slot)
        self._free.append(slot)

    def _wipe(self, slot: int) -> None:
        self._bytes[slot].zero_()
        self._blank[slot] = self._told()
        self._soiled.discard(slot)

    def _capturing(self) -> bool:
        return self._bytes.is_cuda and torch.cuda.is_current_stream_capturing()

    def _told(self) -> Any:
        """Over once the device has done all it was told so far."""
        if not self._bytes.is_cuda:
            return None
        return torch.cuda.current_stream(self._bytes.device).record_event()
