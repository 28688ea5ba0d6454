"""Attention that finds each row's keys and values in its slot by itself: no copy of the window, one launch for
any slots. In the numbers it is given, or in e4m3 with values laid out [heads, head_dim, keys], as the
tensor cores want them.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from services.worker.models.wan.kernels.launch import launch
from services.worker.models.wan.kernels.pointwise import LARGEST


class Shape(NamedTuple):
    """How a kernel cuts its work: queries and keys of a block, loads in flight, warps."""

    queries: int
    keys: int
    stages: int
    warps: int


SHAPES = (Shape(128, 64, 3, 8), Shape(128, 128, 2, 8), Shape(128, 128, 3, 8), Shape(64, 64, 3, 4))
EIGHT_BIT_SHAPES = (Shape(128, 128, 3, 8), Shape(128, 64, 4, 8), Shape(128, 128, 2, 8), Shape(64, 128, 3, 4))


@triton.jit
def step(
    q, k, v, largest, total, made, start, keys, row_stride,
    value_stride, scale, MASKED: tl.constexpr, FP8: tl.constexpr, DIM: tl.constexpr,
    KEYS: tl.constexpr,
):  # fmt: skip
    """One block of keys into the running softmax. In e4m3 weights are 2⁸ times themselves: most are far
    below 1.
    """
    at = start + tl.arange(0, KEYS)
    width = tl.arange(0, DIM)
    where_k = k + width[:, None] + at[None, :] * row_stride
    where_v = v + (
        at[:, None] + width[None, :] * value_stride if FP8 else at[:, None] * row_stride + width[None, :]
    )
    block = tl.load(where_k, mask=at[None, :] < keys, other=0.0) if MASKED else tl.load(where_k)
    scores = tl.dot(q, block) * scale
    if MASKED:
        scores = tl.where(at[None, :] < keys, scores, float("-inf"))
    most = tl.maximum(largest, tl.max(scores, 1))
    weights = tl.exp2(scores - (most - 8.0 if FP8 else most)[:, None])
    shrink = tl.exp2(largest - most)
    values = tl.load(where_v, mask=at[:, None] < keys, other=0.0) if MASKED else tl.load(where_v)
    made = tl.dot(weights.to(values.dtype), values, made * shrink[:, None])
    return most, total * shrink + tl.sum(weights, 1), made


@triton.jit
def attend(
    q, k, v, out, slots, queries, key_slots, value_slots, value_stride,
    scale, KEYS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, FP8: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """q, out [rows, queries, heads, DIM]; k [slots, keys, heads, DIM]; v the same, or [slots, heads, DIM,
    `value_stride`] in e4m3. scale: with log₂ e.
    """
    head = tl.program_id(1) % HEADS
    row = tl.program_id(1) // HEADS
    slot = tl.load(slots + row).to(tl.int64)
    at = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    width = tl.arange(0, DIM)
    line = (row.to(tl.int64) * queries + at[:, None]) * (HEADS * DIM) + head * DIM + width[None, :]
    inside = at[:, None] < queries
    asked = tl.load(q + line, mask=inside, other=0.0)
    if FP8:
        asked = tl.minimum(tl.maximum(asked.to(tl.float32), -LARGEST), LARGEST).to(k.dtype.element_ty)
    k += slot * key_slots + head * DIM
    v += slot * value_slots + (head * DIM * value_stride if FP8 else head * DIM)
    largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    made = tl.zeros([BLOCK_Q, DIM], tl.float32)
    for start in range(0, KEYS // BLOCK_K * BLOCK_K, BLOCK_K):
        largest, total, made = step(
            asked, k, v, largest, total, made, start, KEYS, HEADS * DIM, value_stride, scale,
            False, FP8, DIM, BLOCK_K,
        )  # fmt: skip
    if KEYS % BLOCK_K != 0:
        largest, total, made = step(
            asked, k, v, largest, total, made, KEYS // BLOCK_K * BLOCK_K, KEYS, HEADS * DIM, value_stride, scale,
            True, FP8, DIM, BLOCK_K,
        )  # fmt: skip
    tl.store(out + line, (made / total[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def transpose(
    ring, out, slots, places, tokens, first, seen, ring_slots, out_slots,
    ring_layers, out_layers, capacity,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Values of the frames at `places[row, first + …]` to e4m3 [heads, DIM, capacity], layer by layer."""
    blocks = tl.cdiv(tokens, BLOCK)
    frame, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    head = tl.program_id(1) % HEADS
    row = tl.program_id(1) // HEADS
    layer = tl.program_id(2).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    place = tl.load(places + row * seen + first + frame).to(tl.int64)
    token = block * BLOCK + tl.arange(0, BLOCK)
    width = tl.arange(0, DIM)
    inside = token[:, None] < tokens
    key = place * tokens + token
    held = (
        ring + slot * ring_slots + layer * ring_layers + (key[:, None] * HEADS + head) * DIM + width[None, :]
    )
    value = tl.load(held, mask=inside, other=0.0).to(tl.float32)
    value = tl.minimum(tl.maximum(value, -LARGEST), LARGEST).to(out.dtype.element_ty)
    to = out + slot * out_slots + layer * out_layers + (head * DIM + width[:, None]) * capacity + key[None, :]
    tl.store(to, tl.trans(value), mask=token[None, :] < tokens)


def by_slot(
    q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, seen_keys: int, shape: Shape = SHAPES[0]
) -> Tensor:
    """q [rows, queries, heads, dim]; keys [slots, keys, heads, dim] and values alike, or, in e4m3, values
    [slots, heads, dim, keys]. Each row sees the first `seen_keys` of its slot.
    """
    rows, queries, heads, dim = q.shape
    out = torch.empty_like(q)
    fp8 = keys.dtype == torch.float8_e4m3fn
    launch(
        attend, (triton.cdiv(queries, shape.queries), rows * heads),
        q, keys, values, out, slots, queries, keys.stride(0), values.stride(0), values.shape[-1],
        dim**-0.5 * 1.4426950408889634, KEYS=seen_keys, HEADS=heads, DIM=dim, FP8=fp8,
        BLOCK_Q=shape.queries, BLOCK_K=shape.keys, num_stages=shape.stages, num_warps=shape.warps,
    )  # fmt: skip
    return out


def turn_values(ring: Tensor, out: Tensor, slots: Tensor, places: Tensor, first: int, frames: int) -> None:
    """`frames` frames from `places[:, first]` on; ring [slots, layers, places, tokens, heads, dim], out
    [slots, layers, heads, dim, keys], both perhaps of one layer.
    """
    tokens, heads, dim = ring.shape[-3:]
    if frames == 0:
        return
    block = 128
    launch(
        transpose, (frames * triton.cdiv(tokens, block), len(slots) * heads, ring.shape[1]),
        ring, out, slots, places, tokens, first, places.shape[1], ring.stride(0), out.stride(0), ring.stride(1),
        out.stride(1), out.shape[-1], HEADS=heads, DIM=dim, BLOCK=block,
    )  # fmt: skip
