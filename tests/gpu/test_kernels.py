"""The kernels compute what the plain pieces do. On a GPU, or (TRITON_INTERPRET=1) slowly anywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from services.worker.models.wan.fp8 import E4M3, Scaled
from services.worker.models.wan.kernels import attends, usable
from services.worker.models.wan.pieces import Gains, Norm, Pieces, TorchPieces, Turned
from services.worker.models.wan.rope import rope_table
from services.worker.models.wan.transformer import Rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(not usable(DEVICE), reason="no Triton, or no GPU and no interpreter")
DTYPES = [torch.float32, torch.bfloat16]
SLOTS, LAYERS, PLACES, GRID, HEADS, HEAD_DIM = 3, 2, 4, (3, 2), 3, 16
TOKENS, DIM = GRID[0] * GRID[1], HEADS * HEAD_DIM


def both() -> tuple[Pieces, Pieces]:
    from services.worker.models.wan.kernels.pieces import TritonPieces

    return TorchPieces(), TritonPieces()


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return made.to(DEVICE, dtype)


def near(one: object, other: object, dtype: torch.dtype) -> None:
    for a, b in zip(flat(one), flat(other), strict=True):
        tolerance = 2e-5 if dtype == torch.float32 else 0.04
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def nearly(one: object, other: object) -> None:
    """Triton's interpreter rounds some numbers to e4m3 down by half: it doesn't carry into the exponent."""
    for a, b in zip(flat(one), flat(other), strict=True):
        off = (a - b).abs() > 0.07 * b.abs() + 0.04
        assert off.float().mean() < (0.05 if DEVICE.type == "cpu" else 0.001)


def flat(made: object) -> list[Tensor]:
    if isinstance(made, Scaled):
        return [made.values.float() * made.scale]
    return [made.float()] if isinstance(made, Tensor) else [t for part in made for t in flat(part)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", DTYPES)
def test_residuals_and_norms(dtype: torch.dtype) -> None:
    plain, fast = both()
    x, change = normal(8, DIM, dtype=dtype), normal(8, DIM, dtype=dtype, seed=1)
    gates = normal(2, 6, DIM, dtype=dtype)
    frame = Norm(gates[:, 1], gates[:, 2], 1.0)
    learned = Norm(normal(1, DIM, dtype=dtype), normal(1, DIM, dtype=dtype), 0.0)
    for norm in (frame, learned):
        near(fast.normed(x, norm, fp8=False), plain.normed(x, norm, fp8=False), dtype)
        for gate in (None, gates[:, 0]):
            near(
                fast.residual_normed(x, change, gate, norm, fp8=False),
                plain.residual_normed(x, change, gate, norm, fp8=False),
                dtype,
            )
    near(fast.residual(x, change, gates[:, 5]), plain.residual(x, change, gates[:, 5]), dtype)
    gain = normal(DIM, dtype=dtype)
    near(fast.rms(x, gain), plain.rms(x, gain), dtype)


@pytest.mark.parametrize("gelu", [False, True])
def test_rows_in_eight_bits(gelu: bool) -> None:
    plain, fast = both()
    x = normal(5, 2500, dtype=torch.float32)
    made, wanted = fast.rows(x, gelu=gelu), plain.rows(x, gelu=gelu)
    torch.testing.assert_close(made.scale, wanted.scale, rtol=1e-5, atol=1e-9)
    assert made.values.dtype == E4M3
    nearly(made, wanted)
    norm = Norm(normal(1, 2500, dtype=torch.float32), normal(1, 2500, dtype=torch.float32), 1.0)
    nearly(fast.normed(x, norm, fp8=True), plain.normed(x, norm, fp8=True))


class Case:
    """A ring with content, and a forward of two frames in two rows."""

    def __init__(self, dtype: torch.dtype, kv_dtype: torch.dtype, *, rows: int = 2) -> None:
        self.kv = normal(SLOTS, LAYERS, 2, PLACES, TOKENS, HEADS, HEAD_DIM, dtype=dtype).to(kv_dtype)
        cross = torch.zeros(SLOTS, 1, device=DEVICE, dtype=dtype)
        slots = torch.tensor([2, 0], device=DEVICE)[:rows]
        places = torch.tensor([[1, 3, 0, 2], [0, 1, 3, 2]], device=DEVICE)[:rows]
        self.rows = Rows(self.kv, cross, slots, places, 2)
        self.table = rope_table(PLACES, GRID, HEAD_DIM).to(DEVICE)
        self.qkv = normal(rows * 2 * TOKENS, 3 * DIM, dtype=dtype, seed=3)
        self.gains = Gains(normal(DIM, dtype=dtype), normal(DIM, dtype=dtype, seed=4))


@pytest.mark.parametrize(
    ("dtype", "kv_dtype"), [*((d, d) for d in DTYPES), (torch.bfloat16, E4M3)], ids=["f32", "bf16", "fp8"]
)
def test_the_window(dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    made = []
    for pieces in both():
        case = Case(dtype, kv_dtype)
        keys, values = (torch.zeros(case.kv[:, :, 0].shape, device=DEVICE, dtype=dtype) for _ in range(2))
        alone = Case(dtype, kv_dtype, rows=1)
        pieces.turn(alone.rows, case.table, keys[2], values[2])
        q = pieces.split(case.qkv, case.gains, case.rows, 1, case.table)
        seen = pieces.gather(case.rows, 1, case.table)
        turned = Turned(keys[:, 0], values[:, 0])
        again = pieces.split_turned(case.qkv, case.gains, case.rows, 0, case.table, turned)
        in_place = Turned(keys[:, 1], case.kv[:, 1, 1])
        last = pieces.split_turned(case.qkv, case.gains, case.rows, 1, case.table, in_place)
        made.append([q, again, last, *seen, case.kv.float(), keys, values])
    if kv_dtype == E4M3:
        nearly(made[1], made[0])
    else:
        near(made[1], made[0], dtype)


def test_what_is_turned_is_what_is_gathered() -> None:
    for pieces in both():
        case = Case(torch.float32, torch.float32, rows=1)
        keys = torch.zeros(LAYERS, PLACES, TOKENS, HEADS, HEAD_DIM, device=DEVICE)
        pieces.turn(case.rows, case.table, keys, None)
        every = keys[None].expand(SLOTS, *keys.shape).contiguous()
        turned = Turned(every[:, 1], case.kv[:, 1, 1])
        pieces.split_turned(case.qkv, case.gains, case.rows, 1, case.table, turned)
        seen, _ = pieces.gather(case.rows, 1, case.table)
        ordered = every[2, 1][case.rows.places[0]].flatten(0, 1)
        torch.testing.assert_close(ordered, seen[0], rtol=1e-6, atol=1e-6)


HEADS_AND_BITS = [(dim, eight) for dim in (16, 32, 64, 128) for eight in (False, True)]


@pytest.mark.parametrize(("dim", "eight_bits"), [d for d in HEADS_AND_BITS if attends(d[0], eight_bits=d[1])])
@pytest.mark.parametrize("seen", [44, 33, 32])
def test_attention_finds_its_slots(seen: int, dim: int, eight_bits: bool) -> None:
    """Whole blocks of keys, and a last one that isn't."""
    from services.worker.models.wan.kernels.attention import Shape, by_slot, turn_values

    places, tokens, heads = 4, 11, 2
    q = normal(2, 21, heads, dim, dtype=torch.float32)
    keys, values = (normal(SLOTS, 44, heads, dim, dtype=torch.float32, seed=seed) for seed in (1, 2))
    slots = torch.tensor([2, 0], device=DEVICE)
    order = torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]], device=DEVICE)
    k, v = (part[slots][:, :seen].transpose(1, 2) for part in (keys, values))
    if eight_bits:
        ring = values.view(SLOTS, 1, places, tokens, heads, dim)
        values = torch.zeros(SLOTS, 1, heads, dim, 44, device=DEVICE, dtype=E4M3)
        turn_values(ring, values, slots, order, 0, 4)
        keys, values = keys.to(E4M3), values[:, 0]
    made = by_slot(q, keys, values, slots, seen, Shape(16, 32, 2, 4))
    wanted = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2)
    off = (made - wanted).norm() / wanted.norm()
    assert off < (0.2 if eight_bits else 2e-3)


def test_heads_that_kernels_know() -> None:
    """What `attends` says no to doesn't compile for a GPU; the interpreter is not so strict."""
    known = [[dim for dim in range(1, 129) if attends(dim, eight_bits=eight)] for eight in (False, True)]
    assert known == [[16, 32, 64, 128], [32, 64, 128]]
