"""Sessions' states in one allocation: a row of bytes per session, cut into named regions.

A row is contiguous, so that suspending or moving a session is one copy. Slots are taken and given back,
never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

_ALIGNMENT_BYTES = 256


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


def row_bytes(regions: Sequence[Region]) -> int:
    """What a slot takes: every region begins aligned."""
    return sum(-(-region.size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for region in regions)


class Pool:
    """`slots` rows on one device. Not thread-safe: the device thread owns it."""

    def __init__(self, regions: Sequence[Region], slots: int, device: torch.device) -> None:
        self.row_bytes = row_bytes(regions)
        self._bytes = torch.zeros(slots, self.row_bytes, dtype=torch.uint8, device=device)
        self._free = list(reversed(range(slots)))
        self._views = {
            region.name: self._view(region, row_bytes(regions[:number]))
            for number, region in enumerate(regions)
        }

    def __getitem__(self, name: str) -> Tensor:
        """A region of all slots: [slots, *shape], a view."""
        return self._views[name]

    @property
    def slots(self) -> int:
        return self._bytes.shape[0]

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
        slot = self._free.pop()
        self._bytes[slot].zero_()
        return slot

    def give_back(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is free already"
        self._free.append(slot)

    def _view(self, region: Region, offset: int) -> Tensor:
        part = self._bytes[:, offset : offset + region.size_bytes]
        return part.view(region.dtype).unflatten(1, region.shape)
