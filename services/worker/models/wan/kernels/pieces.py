"""`Pieces` by the kernels."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from services.worker.models.wan.fp8 import E4M3, Scaled
from services.worker.models.wan.kernels import pointwise, window
from services.worker.models.wan.kernels.launch import launch
from services.worker.models.wan.pieces import Activation, Gains, Norm, Turned
from services.worker.models.wan.transformer import EPS, Rows

_WIDE = 4096  # rows that take more threads, so that they stay in registers


class TritonPieces:
    name = "triton"

    def residual(self, x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
        return _residual_norm(x, change, gate, None, fp8=False)[0]

    def normed(self, x: Tensor, norm: Norm, *, fp8: bool) -> Activation:
        made = _residual_norm(x, None, None, norm, fp8=fp8)[1]
        assert made is not None
        return made

    def residual_normed(
        self, x: Tensor, change: Tensor, gate: Tensor | None, norm: Norm, *, fp8: bool
    ) -> tuple[Tensor, Activation]:
        x, made = _residual_norm(x, change, gate, norm, fp8=fp8)
        assert made is not None
        return x, made

    def rms(self, x: Tensor, gain: Tensor) -> Tensor:
        out = torch.empty_like(x)
        dim = x.shape[-1]
        launch(pointwise.rms, (x.numel() // dim,), x, gain, out, dim, EPS, BLOCK=_block(dim))
        return out

    def rows(self, x: Tensor, *, gelu: bool) -> Scaled:
        values, scale = _scaled_like(x)
        width = x.shape[-1]
        head = _block(width + 1) // 2
        launch(
            pointwise.quantise_rows, (len(x),),
            x, values, scale, WIDTH=width, GELU=gelu, HEAD=head, TAIL=_block(width - head) if width > head else 0,
            num_warps=8 if width > _WIDE else 4,
        )  # fmt: skip
        return Scaled(values, scale)

    def split(self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor) -> Tensor:
        return _split(qkv, gains, rows, layer, table, None)

    def split_turned(
        self, qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor, turned: Turned
    ) -> Tensor:
        return _split(qkv, gains, rows, layer, table, turned)

    def gather(self, rows: Rows, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        tokens, heads, head_dim = rows.kv.shape[-3:]
        batch, seen = rows.places.shape
        keys = rows.cross.new_empty(batch, seen * tokens, heads, head_dim)
        values = torch.empty_like(keys)
        dim = heads * head_dim
        launch(
            window.gather, (batch * seen * tokens,),
            rows.kv[:, layer, 0], rows.kv[:, layer, 1], table, rows.slots, rows.places, keys, values,
            tokens, seen, dim, head_dim // 2, table.stride(0), rows.kv.stride(0), BLOCK=_block(dim),
        )  # fmt: skip
        return keys, values

    def turn(self, rows: Rows, table: Tensor, keys: Tensor, values: Tensor | None) -> None:
        layers, _, tokens, heads, head_dim = keys.shape
        frames, dim = rows.places.shape[1] - rows.count, heads * head_dim
        if frames == 0:
            return
        apart = keys if values is None else values
        launch(
            window.turn, (frames * tokens, layers),
            rows.kv, table, rows.slots, rows.places, keys, apart,
            tokens, dim, head_dim // 2, table.stride(0), rows.kv.stride(0), rows.kv.stride(1),
            keys.stride(0), apart.stride(0), KEEP_V=values is not None, BLOCK=_block(dim),
        )  # fmt: skip


def _residual_norm(
    x: Tensor, change: Tensor | None, gate: Tensor | None, norm: Norm | None, *, fp8: bool
) -> tuple[Tensor, Activation | None]:
    tokens, dim = x.shape
    out_x = x if change is None else torch.empty_like(x)
    out, out_scale = _scaled_like(x) if fp8 else (torch.empty_like(x), x)
    groups = 1 if gate is None else gate.shape[0]
    scale, shift = (x, x) if norm is None else (norm.scale, norm.shift)
    norm_groups = 1 if norm is None else scale.shape[0]
    launch(
        pointwise.residual_norm, (tokens,),
        x, x if change is None else change, x if gate is None else gate, scale, shift, out_x, out, out_scale,
        tokens // groups, 0 if gate is None else gate.stride(0), 0 if norm is None else scale.stride(0),
        tokens // norm_groups, dim, 0.0 if norm is None else norm.offset, EPS,
        HAS_CHANGE=change is not None, HAS_GATE=gate is not None, HAS_NORM=norm is not None, FP8=fp8,
        BLOCK=_block(dim),
    )  # fmt: skip
    if norm is None:
        return out_x, None
    return out_x, Scaled(out, out_scale) if fp8 else out


def _split(qkv: Tensor, gains: Gains, rows: Rows, layer: int, table: Tensor, turned: Turned | None) -> Tensor:
    tokens, heads, head_dim = rows.kv.shape[-3:]
    batch, seen = rows.places.shape
    dim = heads * head_dim
    keys, values = rows.kv[:, layer, 0], rows.kv[:, layer, 1]
    to = turned or Turned(keys, values)
    q = qkv.new_empty(batch, rows.count * tokens, heads, head_dim)
    launch(
        window.split, (batch * rows.count * tokens,),
        qkv, gains.q, gains.k, table, rows.slots, rows.places, keys, values, to.keys, to.values, q,
        rows.count, tokens, seen, dim, head_dim // 2, table.stride(0), rows.kv.stride(0), to.keys.stride(0),
        to.values.stride(0), EPS,
        TURN=turned is not None, KEEP_V=to.values.data_ptr() != values.data_ptr(), BLOCK=_block(dim),
    )  # fmt: skip
    return q


def _scaled_like(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=E4M3), x.new_empty(x.shape[0], 1, dtype=torch.float32)


def _block(width: int) -> int:
    return triton.next_power_of_2(width)
