"""What a forward does between its products: norms, rotary embedding, residuals, and the window's keys and
values. Each piece is one pass over memory where a device's kernels can make it one; here it is plain torch,
which runs anywhere and says what the kernels must compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.wan.fp8 import Scaled, quantised, saturated
from services.worker.models.wan.transformer import EPS, Rows

Activation = Tensor | Scaled
"""What a product takes: numbers, or bytes with a scale per row."""


class Norm(NamedTuple):
    """Layer norm, then × (offset + scale) + shift; scale and shift [groups, dim], a group being
    consecutive tokens. A frame's modulation has offset 1, learned gains and biases (one group) 0.
    """

    scale: Tensor
    shift: Tensor
    offset: float


class Turned(NamedTuple):
    """One layer's keys of all slots, turned to the positions they have in the present chunk's window, and
    its values: [slots, places, tokens, heads, head_dim].
    """

    keys: Tensor
    values: Tensor


class Gains(NamedTuple):
    """Of the norms of a self-attention's queries and keys."""

    q: Tensor
    k: Tensor


class Pieces(Protocol):
    """`x` and changes of it: [tokens of all rows and frames, dim]; a table: [2, frames, tokens, pairs]."""

    name: str

    def residual(self, x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
        """x + change × gate; gate [groups, dim], None: as it is."""

    def normed(self, x: Tensor, norm: Norm, *, fp8: bool) -> Activation: ...

    def residual_normed(
        self, x: Tensor, change: Tensor, gate: Tensor | None, norm: Norm, *, fp8: bool
    ) -> tuple[Tensor, Activation]:
        """Both in one pass."""

    def rms(self, x: Tensor, gain: Tensor) -> Tensor: ...

    def rows(self, x: Tensor, *, gelu: bool) -> Scaled:
        """Numbers for an fp8 product, after a GELU where asked for."""

    def split(self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor) -> Tensor:
        """Keys and values of the frames fed to their places; returns the queries, turned:
        [rows, frames × tokens, heads, head_dim].
        """

    def split_turned(
        self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor, turned: Turned
    ) -> Tensor:
        """The same, and the keys also turned (and the values, where they are kept apart) to `turned`."""

    def gather(self, rows: Rows, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, turned, and values of the frames seen: [rows, seen × tokens, heads, head_dim] each."""

    def turn(self, rows: Rows, table: Tensor, keys: Tensor, values: Tensor | None) -> None:
        """One session's frames seen but not fed, in every layer, turned to [layers, places, tokens, heads,
        head_dim]; values, where kept apart, copied.
        """


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """x [rows, frames, tokens, heads, head_dim] in float32, turned."""
    cos, sin = table[0, :, :, None], table[1, :, :, None]
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def apply_residual(x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
    if gate is not None:
        change = (change.unflatten(0, (gate.shape[0], -1)) * gate[:, None]).flatten(0, 1)
    return x + change


def apply_norm(x: Tensor, scale: Tensor, shift: Tensor, offset: float) -> Tensor:
    frames = F.layer_norm(x.float(), x.shape[-1:], eps=EPS).unflatten(0, (scale.shape[0], -1))
    return (frames * (offset + scale[:, None].float()) + shift[:, None].float()).flatten(0, 1).to(x.dtype)


def apply_both(
    x: Tensor, change: Tensor, gate: Tensor | None, scale: Tensor, shift: Tensor, offset: float
) -> tuple[Tensor, Tensor]:
    x = apply_residual(x, change, gate)
    return x, apply_norm(x, scale, shift, offset)


def apply_rms(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, gain.shape, gain, EPS)


def apply_split(
    qkv: Tensor, gain_q: Tensor, gain_k: Tensor, table: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries turned, keys, values: [rows, frames, tokens, heads, head_dim]."""
    q, k, v = (part.reshape(shape) for part in qkv.chunk(3, -1))
    q, k = apply_rms(q.flatten(-2), gain_q), apply_rms(k.flatten(-2), gain_k)
    return rotated(q.unflatten(-1, shape[-2:]), table).to(qkv.dtype), k.unflatten(-1, shape[-2:]), v


class TorchPieces:
    """Plain torch. `compiled`: what is arithmetic alone through torch.compile; stores and reads of the
    ring stay outside, since a compiler that can't prove them in place copies the whole ring.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self.name = "compiled" if compiled else "eager"
        wrap: Callable[..., Callable] = _compiled if compiled else _as_it_is
        self._residual, self._norm, self._both = wrap(apply_residual), wrap(apply_norm), wrap(apply_both)
        self._rms, self._split, self._rotated = wrap(apply_rms), wrap(apply_split), wrap(_rotated_as)

    def residual(self, x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
        return self._residual(x, change, gate)

    def normed(self, x: Tensor, norm: Norm, *, fp8: bool) -> Activation:
        made = self._norm(x, *norm)
        return quantised(made) if fp8 else made

    def residual_normed(
        self, x: Tensor, change: Tensor, gate: Tensor | None, norm: Norm, *, fp8: bool
    ) -> tuple[Tensor, Activation]:
        x, made = self._both(x, change, gate, *norm)
        return x, quantised(made) if fp8 else made

    def rms(self, x: Tensor, gain: Tensor) -> Tensor:
        return self._rms(x, gain)

    def rows(self, x: Tensor, *, gelu: bool) -> Scaled:
        return quantised(F.gelu(x, approximate="tanh") if gelu else x)

    def split(self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor) -> Tensor:
        return self._store(qkv, gains, rows, layer, table)[0]

    def split_turned(
        self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor, turned: Turned
    ) -> Tensor:
        q, keys, values = self._store(qkv, gains, rows, layer, table)
        slots, written = rows.slots[:, None], rows.places[:, -rows.count :]
        newest = table[:, rows.places.shape[1] - rows.count : rows.places.shape[1]]
        turned_keys = self._rotated(keys.to(qkv.dtype), newest)
        turned.keys[slots, written] = saturated(turned_keys, turned.keys.dtype)
        if turned.values.data_ptr() != rows.kv[:, layer, 1].data_ptr():
            turned.values[slots, written] = saturated(values, turned.values.dtype)
        return q

    def gather(self, rows: Rows, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        slots, seen = rows.slots[:, None], rows.places.shape[1]
        dtype = rows.dtype
        keys = self._rotated(rows.kv[:, layer, 0][slots, rows.places].to(dtype), table[:, :seen])
        return keys.flatten(1, 2), rows.kv[:, layer, 1][slots, rows.places].to(dtype).flatten(1, 2)

    def turn(self, rows: Rows, table: Tensor, keys: Tensor, values: Tensor | None) -> None:
        seen = rows.places.shape[1]
        places = rows.places[0, : seen - rows.count]
        for layer in range(len(keys)):
            held = rows.kv[rows.slots[0], layer]
            turned = self._rotated(held[0, places][None].to(rows.dtype), table[:, : seen - rows.count])
            keys[layer, places] = saturated(turned[0], keys.dtype)
            if values is not None:
                values[layer, places] = saturated(held[1, places], values.dtype)

    def _store(
        self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, turned; keys and values as the ring holds them now."""
        count, seen = rows.count, rows.places.shape[1]
        shape = (len(rows.slots), count, -1, *rows.kv.shape[-2:])
        q, k, v = self._split(qkv, *gains, table[:, seen - count : seen], shape)
        k, v = saturated(k, rows.kv.dtype), saturated(v, rows.kv.dtype)
        slots, written = rows.slots[:, None], rows.places[:, -count:]
        rows.kv[:, layer, 0][slots, written], rows.kv[:, layer, 1][slots, written] = k, v
        return q.flatten(1, 2), k, v


def _rotated_as(x: Tensor, table: Tensor) -> Tensor:
    return rotated(x, table).to(x.dtype)


def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, options={"triton.cudagraphs": False})


def _as_it_is(function: Callable) -> Callable:
    return function
