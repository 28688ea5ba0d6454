"""The linear layers of one block, in 16 bits or in eight, and the ways there are to compute each.

A product in eight bits is faster, but its numbers have to be turned into bytes first. Where a norm or GELU
comes before, that costs next to nothing; elsewhere it takes a pass over memory, which is more than a small
product gains. So each is tried with what lies before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.wan.fp8 import Fp8Product, PlainProduct, Product
from services.worker.models.wan.graphs import Capture
from services.worker.models.wan.pieces import Activation, Norm, Pieces
from services.worker.models.wan.transformer import Block

REPEATS = 8
"""Of a product in one graph: alone it is shorter than what it takes to start it."""
_BETWEEN = "+"


class Products(NamedTuple):
    """Of one block."""

    qkv: Product
    o: Product
    cross_q: Product
    cross_o: Product
    up: Product
    down: Product


def names(spared: str) -> list[str]:
    """Of the products that `Form.spared` spares."""
    return spared.split(_BETWEEN) if spared else []


def joined(groups: list[str]) -> str:
    return _BETWEEN.join(group for group in groups if group)


def made_products(block: Block, *, fp8: bool, spared: str = "", native: bool = False) -> Products:
    own, text = block.self_attn, block.cross_attn
    linears = (own.qkv, own.o, text.q, text.o, block.ffn[0], block.ffn[2])
    wide = names(spared) if fp8 else Products._fields
    return Products(
        *(
            PlainProduct(linear) if name in wide else Fp8Product(linear, native=native)
            for name, linear in zip(Products._fields, linears, strict=True)
        )
    )


def fed_forward(made: Activation, products: Products, pieces: Pieces, *, gelu: bool) -> Tensor:
    """`gelu`: fused into its product, where that is in 16 bits."""
    fused = gelu and isinstance(products.up, PlainProduct)
    x = products.up.with_gelu(made) if fused else products.up(made)  # type: ignore[attr-defined]
    if products.down.fp8:
        return products.down(pieces.rows(x, gelu=not fused))
    return products.down(x if fused else F.gelu(x, approximate="tanh"))


Work = Callable[[], Tensor]


class Trial:
    """The products of one block on numbers of a forward's shape."""

    def __init__(self, block: Block, pieces: Pieces, tokens: int, *, gelu: bool, native: bool) -> None:
        weight = block.norm3.weight
        self._block, self._pieces, self._gelu, self._native = block, pieces, gelu, native
        self._x = torch.randn(tokens, weight.shape[0], device=weight.device).to(weight.dtype)
        self._norm = Norm(weight[None], block.norm3.bias[None], 0.0)

    def ways(self) -> Mapping[str, Mapping[str, Work]]:
        """What is decided together, and by what is spared how it is computed: first all in 16 bits."""
        return {
            "qkv": self._each(["qkv", ""], lambda p: p.qkv(self._normed(p.qkv))),
            "attention's own": self._each(["o+cross_o", ""], lambda p: p.o(self._as_taken(p.o))),
            "queries of the text": self._each(["cross_q", ""], lambda p: p.cross_q(self._normed(p.cross_q))),
            "feed forward": self._each(["up+down", "", "up", "down"], self._fed_forward),
        }

    def _each(self, spared: list[str], work: Callable[[Products], Tensor]) -> dict[str, Work]:
        made = {
            each: made_products(self._block, fp8=True, spared=each, native=self._native) for each in spared
        }
        return {each: partial(work, products) for each, products in made.items()}

    def _fed_forward(self, products: Products) -> Tensor:
        return fed_forward(self._normed(products.up), products, self._pieces, gelu=self._gelu)

    def _normed(self, product: Product) -> Activation:
        return self._pieces.normed(self._x, self._norm, fp8=product.fp8)

    def _as_taken(self, product: Product) -> Activation:
        return self._pieces.rows(self._x, gelu=False) if product.fp8 else self._x


def repeated(work: Work, capture: Capture) -> Work:
    """Captured at the first call; each call does it `REPEATS` times."""
    captured: list[tuple[Callable[[], None], Tensor]] = []

    def run() -> Tensor:
        if not captured:
            captured.append(capture(lambda: [work() for _ in range(REPEATS)][-1], warm=False))
        replay, out = captured[0]
        replay()
        return out

    return run
