"""The window as attention reads it: keys already turned to their positions, in the ring's order, kept from
one forward of a chunk to the next.

Keys lie in the ring unturned, and their positions are the same in all forwards of a chunk. So they are turned
once a chunk instead of once a forward, and attention, which doesn't mind the order of keys, reads ring and
workspace where they lie. That serves windows that are all places of the ring from the first on: full ones
and those that still fill. Nothing here is a session's state: it can be made anew from the ring at any time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.worker.models.wan.fp8 import E4M3
from services.worker.models.wan.pieces import Pieces, Turned
from services.worker.models.wan.transformer import Rows


class Workspace:
    """For every slot of the pool. `values`: None where the ring's own can be read."""

    def __init__(self, kv: Tensor, dtype: torch.dtype) -> None:
        """kv [slots, layers, 2, places, tokens, heads, head_dim], of the pool."""
        self._kv = kv
        self.keys = torch.zeros_like(kv[:, :, 0], dtype=dtype, memory_format=torch.contiguous_format)
        self.values = None if kv.dtype == dtype else torch.zeros_like(self.keys)
        self._made_for: dict[int, tuple[int, ...]] = {}

    def forget(self, slot: int) -> None:
        """The slot's ring may hold anything now."""
        self._made_for.pop(slot, None)

    def layer(self, layer: int) -> Turned:
        values = self._kv[:, :, 1] if self.values is None else self.values
        return Turned(self.keys[:, layer], values[:, layer])

    def make(self, slot: int, seen: tuple[int, ...], rows: Rows, table: Tensor, pieces: Pieces) -> None:
        """The frames seen but not fed, if they aren't there. `rows`: that one slot's."""
        if self._made_for.get(slot) == seen:
            return
        values = None if self.values is None else self.values[slot]
        pieces.turn(rows, table, self.keys[slot], values)
        self._made_for[slot] = seen


class EightBits:
    """The same in e4m3, for attention in eight bits; values laid out [heads, head_dim, keys]. By kernels
    only.
    """

    def __init__(self, kv: Tensor) -> None:
        slots, layers, _, places, tokens, heads, head_dim = kv.shape
        self._kv = kv
        self.keys = torch.zeros_like(kv[:, :, 0], dtype=E4M3, memory_format=torch.contiguous_format)
        shape = (slots, layers, heads, head_dim, places * tokens)
        self.values = torch.zeros(shape, dtype=E4M3, device=kv.device)
        self._made_for: dict[int, tuple[int, ...]] = {}

    def forget(self, slot: int) -> None:
        self._made_for.pop(slot, None)

    def layer(self, layer: int) -> Turned:
        """Keys and the ring's values: the kernel that splits writes no others."""
        return Turned(self.keys[:, layer], self._kv[:, layer, 1])

    def write(self, layer: int, rows: Rows) -> None:
        """The values of the frames fed."""
        from services.worker.models.wan.kernels.attention import turn_values

        first = rows.places.shape[1] - rows.count
        ring, out = self._kv[:, layer : layer + 1, 1], self.values[:, layer : layer + 1]
        turn_values(ring, out, rows.slots, rows.places, first, rows.count)

    def make(self, slot: int, seen: tuple[int, ...], rows: Rows, table: Tensor, pieces: Pieces) -> None:
        from services.worker.models.wan.kernels.attention import turn_values

        if self._made_for.get(slot) == seen:
            return
        pieces.turn(rows, table, self.keys[slot], None)
        turn_values(self._kv[:, :, 1], self.values, rows.slots, rows.places, 0, len(seen) - rows.count)
        self._made_for[slot] = seen
