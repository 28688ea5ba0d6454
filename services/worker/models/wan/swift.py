"""The transformer's forward with few passes over memory: products and attention by the device's fastest
kernels, all between them in pieces, residuals and norms of neighbours in one.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.in_pieces import InPieces, at_once
from services.worker.models.wan.attention import ATTENTIONS
from services.worker.models.wan.form import Form
from services.worker.models.wan.fp8 import Product
from services.worker.models.wan.marks import Marks
from services.worker.models.wan.pieces import Activation, Gains, Norm, Pieces, TorchPieces
from services.worker.models.wan.products import Products, fed_forward, made_products
from services.worker.models.wan.transformer import Block, Rows, Transformer
from services.worker.models.wan.turned import EightBits, Workspace


class Swift:
    """The forms of one transformer over one pool. `turned`, `eight`: where there is room for them. `marks`:
    where somebody wants to know how far a forward is.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        turned: Workspace | None = None,
        eight: EightBits | None = None,
        native_fp8: bool = False,
    ) -> None:
        self._transformer = transformer
        self.turned, self.eight, self.native_fp8 = turned, eight, native_fp8
        self._blocks: list[Block] = list(transformer.blocks)  # type: ignore[arg-type]
        self._modulation = torch.stack([block.modulation[0] for block in self._blocks])
        self._plain = [made_products(block, fp8=False) for block in self._blocks]
        self._eight_bit: dict[str, list[Products]] = {}
        self.marks: Marks | None = None

    def prepare_fp8(self, spared: str) -> list[Products]:
        """The weights once more, in eight bits, but for what is spared."""
        if spared not in self._eight_bit:
            self._eight_bit[spared] = [
                made_products(block, fp8=True, spared=spared, native=self.native_fp8)
                for block in self._blocks
            ]
        return self._eight_bit[spared]

    def room_for(self, form: Form) -> bool:
        return {"turned": self.turned, "slots": self.turned, "slots8": self.eight}.get(
            form.window, self
        ) is not None

    def make_window(self, slot: int, seen: tuple[int, ...], rows: Rows, form: Form) -> None:
        """Before a forward of that slot in a form that reads in place."""
        space = self.eight if form.window == "slots8" else self.turned
        assert space is not None
        space.make(slot, seen, rows, self._transformer.table, pieces_of(form.pieces))

    def forget(self, slot: int) -> None:
        for space in (self.turned, self.eight):
            if space is not None:
                space.forget(slot)

    def __call__(self, latents: Tensor, levels: Tensor, rows: Rows, form: Form) -> Tensor:
        """As `Transformer.forward`."""
        return at_once(self.in_pieces(latents, levels, rows, form, len(self._blocks)))

    def in_pieces(
        self, latents: Tensor, levels: Tensor, rows: Rows, form: Form, layers: int
    ) -> InPieces[Tensor]:
        """So many layers a piece."""
        if form.pieces == "plain":
            return self._plainly(latents, levels, rows, layers)
        return _Forward(self, rows, form).in_pieces(latents, levels, layers)

    def _plainly(self, latents: Tensor, levels: Tensor, rows: Rows, layers: int) -> InPieces[Tensor]:
        velocity = yield from self._transformer.in_pieces(latents, levels, rows, layers)
        for layer in range(len(self._blocks)):
            self.wrote(layer)
        return velocity

    def wrote(self, layer: int) -> None:
        """The device was just told to write that layer's keys and values."""
        if self.marks is not None:
            self.marks.wrote(layer)

    def blocks(self, form: Form) -> list[tuple[Block, Products]]:
        products = self.prepare_fp8(form.spared) if form.fp8 else self._plain
        return list(zip(self._blocks, products, strict=True))

    @property
    def transformer(self) -> Transformer:
        return self._transformer

    @property
    def modulation(self) -> Tensor:
        """[layers, 6, dim]."""
        return self._modulation


class _Forward:
    """One forward: what its layers share."""

    def __init__(self, swift: Swift, rows: Rows, form: Form) -> None:
        self._swift, self._rows, self._form = swift, rows, form
        self._pieces = pieces_of(form.pieces)
        self._table = swift.transformer.table

    def in_pieces(self, latents: Tensor, levels: Tensor, layers: int) -> InPieces[Tensor]:
        transformer, pieces, form = self._swift.transformer, self._pieces, self._form
        embedded, time = transformer.times(levels)
        times = (self._swift.modulation[:, None] + time.flatten(0, 1)[None]).unbind(0)
        head = transformer.head.modulation + embedded.flatten(0, 1)[:, None]
        norms = [Norm(t[:, 1], t[:, 0], 1.0) for t in times]
        blocks = self._swift.blocks(form)
        x = transformer.patches(latents).flatten(0, 1).contiguous()
        made = pieces.normed(x, norms[0], fp8=blocks[0][1].qkv.fp8)
        for layer, (block, products) in enumerate(blocks):
            if layer and not layer % layers:
                yield
            last = layer == len(blocks) - 1
            following = Norm(head[:, 1], head[:, 0], 1.0) if last else norms[layer + 1]
            fp8 = not last and blocks[layer + 1][1].qkv.fp8
            x, made = self._block(x, made, block, products, layer, times[layer], following, following_fp8=fp8)
        velocity = F.linear(made, transformer.head.head.weight, transformer.head.head.bias)  # type: ignore[arg-type]
        return transformer.picture(velocity.unflatten(0, (latents.shape[0], -1)), latents.shape[1])

    def _block(
        self,
        x: Tensor,
        made: Activation,
        block: Block,
        products: Products,
        layer: int,
        time: Tensor,
        following: Norm,
        *,
        following_fp8: bool,
    ) -> tuple[Tensor, Activation]:
        """x and its norm for this block; returns those for the next."""
        pieces = self._pieces
        gains = Gains(block.self_attn.norm_q.weight, block.self_attn.norm_k.weight)
        seen = self._seen(products.qkv(made), gains, layer)
        learned = Norm(block.norm3.weight[None], block.norm3.bias[None], 0.0)
        change = self._product(products.o, seen)
        x, made = pieces.residual_normed(x, change, time[:, 2], learned, fp8=products.cross_q.fp8)
        change = self._product(products.cross_o, self._told(made, block, products, layer))
        x, made = pieces.residual_normed(
            x, change, None, Norm(time[:, 4], time[:, 3], 1.0), fp8=products.up.fp8
        )
        change = fed_forward(made, products, pieces, gelu=self._form.gelu)
        return pieces.residual_normed(x, change, time[:, 5], following, fp8=following_fp8)

    def _seen(self, qkv: Tensor, gains: Gains, layer: int) -> Tensor:
        """Self-attention: [tokens, dim]."""
        rows, form, pieces = self._rows, self._form, self._pieces
        if form.window == "gather":
            q = pieces.split(qkv, gains, rows, layer, self._table)
            self._swift.wrote(layer)
            return (
                ATTENTIONS[form.attention](q, *pieces.gather(rows, layer, self._table))
                .flatten(2)
                .flatten(0, 1)
            )
        space = self._swift.eight if form.window == "slots8" else self._swift.turned
        assert space is not None
        turned = space.layer(layer)
        q = pieces.split_turned(qkv, gains, rows, layer, self._table, turned)
        self._swift.wrote(layer)
        if isinstance(space, EightBits):
            space.write(layer, rows)
        return self._attend(q, layer).flatten(2).flatten(0, 1)

    def _attend(self, q: Tensor, layer: int) -> Tensor:
        """Over the first places of each row's slot, where they lie."""
        rows, form, swift = self._rows, self._form, self._swift
        seen = rows.places.shape[1]
        if form.window == "slots8":
            assert swift.eight is not None
            keys, values = swift.eight.keys[:, layer].flatten(1, 2), swift.eight.values[:, layer]
            return _by_slot(q, keys, values, rows.slots, seen * rows.kv.shape[-3], form)
        assert swift.turned is not None
        keys, values = swift.turned.layer(layer)
        if form.window == "slots":
            seen_keys = seen * rows.kv.shape[-3]
            return _by_slot(q, keys.flatten(1, 2), values.flatten(1, 2), rows.slots, seen_keys, form)
        assert rows.slot is not None
        k, v = (part[rows.slot, :seen].flatten(0, 1)[None] for part in (keys, values))
        return ATTENTIONS[form.attention](q, k, v)

    def _told(self, made: Activation, block: Block, products: Products, layer: int) -> Tensor:
        """Cross-attention: [tokens, dim]."""
        rows, attention = self._rows, block.cross_attn
        q = self._pieces.rms(products.cross_q(made), attention.norm_q.weight)
        q = q.view(len(rows.slots), -1, *rows.cross.shape[-2:])
        every = rows.cross[:, layer]
        kv = every[rows.slot][None] if rows.slot is not None else every[rows.slots]
        return ATTENTIONS[self._form.cross](q, kv[:, 0], kv[:, 1]).flatten(2).flatten(0, 1)

    def _product(self, product: Product, x: Tensor) -> Tensor:
        return product(self._pieces.rows(x.contiguous(), gelu=False) if product.fp8 else x)


def _by_slot(q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, seen_keys: int, form: Form) -> Tensor:
    from services.worker.models.wan.kernels.attention import EIGHT_BIT_SHAPES, SHAPES, by_slot

    shapes = EIGHT_BIT_SHAPES if form.window == "slots8" else SHAPES
    return by_slot(q, keys, values, slots, seen_keys, shapes[form.shape])


@cache
def pieces_of(name: str) -> Pieces:
    if name == "triton":
        from services.worker.models.wan.kernels.pieces import TritonPieces

        return TritonPieces()
    return TorchPieces(compiled=name == "compiled")
