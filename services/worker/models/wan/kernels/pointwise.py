"""Norms and residuals: one program per token, the whole width in registers, float32 in between."""

import triton
import triton.language as tl

LARGEST = tl.constexpr(448.0)


@triton.jit
def saturated(value, factor, out):
    """`factor` times as much, in e4m3."""
    return tl.minimum(tl.maximum(value * factor, -LARGEST), LARGEST).to(out.dtype.element_ty)


@triton.jit
def store_row(made, out, out_scale, row, columns, inside, dim, FP8: tl.constexpr):
    """A row as it is, or in e4m3 with its scale."""
    at = out + row * dim + columns
    if FP8:
        most = tl.maximum(tl.max(tl.where(inside, tl.abs(made), 0.0), 0), 1e-12)
        tl.store(out_scale + row, most / LARGEST)
        tl.store(at, saturated(made, LARGEST / most, out), mask=inside)
    else:
        tl.store(at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def residual_norm(
    x, change, gate, scale, shift, out_x, out, out_scale,
    tokens, gate_stride, scale_stride, norm_tokens, dim, offset, eps,
    HAS_CHANGE: tl.constexpr, HAS_GATE: tl.constexpr, HAS_NORM: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x + change × gate to out_x; its layer norm × (offset + scale) + shift to out. `tokens`, `norm_tokens`:
    of a group.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    value = tl.load(x + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_CHANGE:
        added = tl.load(change + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            added *= tl.load(gate + row // tokens * gate_stride + columns, mask=inside, other=0.0).to(
                tl.float32
            )
        rounded = (value + added).to(out_x.dtype.element_ty)
        tl.store(out_x + row * dim + columns, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if HAS_NORM:
        centred = tl.where(inside, value - tl.sum(value, 0) / dim, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / dim + eps)
        group = row // norm_tokens * scale_stride
        factor = tl.load(scale + group + columns, mask=inside, other=0.0).to(tl.float32) + offset
        made = normed * factor + tl.load(shift + group + columns, mask=inside, other=0.0).to(tl.float32)
        store_row(made, out, out_scale, row, columns, inside, dim, FP8)


@triton.jit
def rms_row(x, gain, columns, inside, dim, eps):
    value = tl.load(x + columns, mask=inside, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / dim + eps)
    return value * tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def rms(x, gain, out, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    made = rms_row(x + row * dim, gain, columns, inside, dim, eps)
    tl.store(out + row * dim + columns, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def activated(x, GELU: tl.constexpr):
    """GELU by tanh, which is 2σ(2z) − 1."""
    value = x.to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        value = value * tl.sigmoid(2.0 * inner)
    return value


@triton.jit
def quantise_rows(
    x, out, out_scale, WIDTH: tl.constexpr, GELU: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr
):  # fmt: skip
    """A row stays in registers, so that it is read and activated once: its first `HEAD` numbers, and the
    others among `TAIL` more. Both are powers of two, and one that held the whole row would be half empty.
    """
    row = tl.program_id(0).to(tl.int64)
    first = tl.arange(0, HEAD)
    head = activated(tl.load(x + row * WIDTH + first), GELU)
    most = tl.max(tl.abs(head), 0)
    if TAIL > 0:
        rest = HEAD + tl.arange(0, TAIL)
        tail = activated(tl.load(x + row * WIDTH + rest, mask=rest < WIDTH, other=0.0), GELU)
        most = tl.maximum(most, tl.max(tl.abs(tail), 0))
    most = tl.maximum(most, 1e-12)
    tl.store(out_scale + row, most / LARGEST)
    tl.store(out + row * WIDTH + first, saturated(head, LARGEST / most, out))
    if TAIL > 0:
        tl.store(out + row * WIDTH + rest, saturated(tail, LARGEST / most, out), mask=rest < WIDTH)
