"""Keys and values on their way into and out of the ring. One program per token, all heads."""

import triton
import triton.language as tl

from services.worker.models.wan.kernels.pointwise import LARGEST, rms_row


@triton.jit
def turned_row(value, table, sine, line, half, BLOCK: tl.constexpr):
    """Neighbouring pairs turned by the table's line; sine: how far behind the cosines the sines lie."""
    pair = tl.arange(0, BLOCK // 2)
    at = table + line * half + pair % half
    cos = tl.load(at)
    sin = tl.load(at + sine)
    even, odd = tl.split(tl.reshape(value, (BLOCK // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (BLOCK,))


@triton.jit
def put(value, at, inside):
    """What was stored, as float32; e4m3 saturates."""
    if at.dtype.element_ty == tl.float8e4nv:
        value = tl.minimum(tl.maximum(value, -LARGEST), LARGEST)
    held = value.to(at.dtype.element_ty)
    tl.store(at, held, mask=inside)
    return held.to(tl.float32)


@triton.jit
def split(
    qkv, gain_q, gain_k, table, slots, places, ring_k, ring_v,
    turned_k, turned_v, out_q,
    count, tokens, seen, dim, half, sine, ring_stride, turned_stride,
    value_stride, eps,
    TURN: tl.constexpr, KEEP_V: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Queries turned; keys (not turned) and values to the ring; keys turned, and values, to `turned_…`."""
    row = tl.program_id(0).to(tl.int64)
    frame = row // tokens
    batch, index = frame // count, seen - count + frame % count
    slot = tl.load(slots + batch).to(tl.int64)
    place = tl.load(places + batch * seen + index).to(tl.int64)
    token = row % tokens
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    line = index * tokens + token
    at = (place * tokens + token) * dim + columns
    q = rms_row(qkv + row * 3 * dim, gain_q, columns, inside, dim, eps).to(out_q.dtype.element_ty)
    q = turned_row(q.to(tl.float32), table, sine, line, half, BLOCK)
    tl.store(out_q + row * dim + columns, q.to(out_q.dtype.element_ty), mask=inside)
    k = rms_row(qkv + (row * 3 + 1) * dim, gain_k, columns, inside, dim, eps).to(out_q.dtype.element_ty)
    k = put(k.to(tl.float32), ring_k + slot * ring_stride + at, inside)
    v = tl.load(qkv + (row * 3 + 2) * dim + columns, mask=inside, other=0.0).to(tl.float32)
    v = put(v, ring_v + slot * ring_stride + at, inside)
    if TURN:
        turned = turned_row(k, table, sine, line, half, BLOCK)
        put(turned, turned_k + slot * turned_stride + at, inside)
        if KEEP_V:
            put(v, turned_v + slot * value_stride + at, inside)


@triton.jit
def gather(
    ring_k, ring_v, table, slots, places, out_k, out_v,
    tokens, seen, dim, half, sine, ring_stride, BLOCK: tl.constexpr,
):  # fmt: skip
    """The frames seen, in order: keys turned, values as they are."""
    row = tl.program_id(0).to(tl.int64)
    frame, token = row // tokens, row % tokens
    index = frame % seen
    slot = tl.load(slots + frame // seen).to(tl.int64)
    place = tl.load(places + frame).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    at = slot * ring_stride + (place * tokens + token) * dim + columns
    k = tl.load(ring_k + at, mask=inside, other=0.0).to(tl.float32)
    put(
        turned_row(k, table, sine, index * tokens + token, half, BLOCK),
        out_k + row * dim + columns,
        inside,
    )
    put(tl.load(ring_v + at, mask=inside, other=0.0).to(tl.float32), out_v + row * dim + columns, inside)


@triton.jit
def turn(
    ring, table, slots, places, out_k, out_v,
    tokens, dim, half, sine, ring_stride, layer_stride, key_stride,
    value_layer_stride, KEEP_V: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Frames of every layer of the one slot named, from the ring to where they are read."""
    row = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1).to(tl.int64)
    index, token = row // tokens, row % tokens
    slot = tl.load(slots).to(tl.int64)
    place = tl.load(places + index).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    at = (place * tokens + token) * dim + columns
    held = ring + slot * ring_stride + layer * layer_stride + at
    k = tl.load(held, mask=inside, other=0.0).to(tl.float32)
    put(turned_row(k, table, sine, row, half, BLOCK), out_k + layer * key_stride + at, inside)
    if KEEP_V:
        v = tl.load(held + layer_stride // 2, mask=inside, other=0.0).to(tl.float32)
        put(v, out_v + layer * value_layer_stride + at, inside)
