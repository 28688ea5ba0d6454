"""Single kernels on numbers of a forward's shape: what of a form can be chosen without a whole forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.wan.attention import ATTENTIONS, Compare, runnable
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import Form
from services.worker.models.wan.fp8 import PlainProduct
from services.worker.models.wan.graphs import Capture
from services.worker.models.wan.kernels import attends, usable
from services.worker.models.wan.products import REPEATS, Trial, joined, repeated
from services.worker.models.wan.swift import Swift, pieces_of
from services.worker.models.wan.transformer import Block

EIGHT_BITS_TOLERANCE = 0.3
"""Tells wrong from coarse; how coarse is measured by the benchmark."""


class Trials:
    """`took`: what was compared, and how many ms each took."""

    def __init__(
        self,
        config: WanConfig,
        swift: Swift,
        device: torch.device,
        dtype: torch.dtype,
        capture: Capture,
        compare: Compare,
    ) -> None:
        self._config, self._swift, self._capture, self._compare = config, swift, capture, compare
        self._device, self._dtype = device, dtype
        self.took: dict[str, dict[str, float]] = {}

    def attention(self, what: str, keys: int) -> str:
        """The fastest of torch's ways to it."""
        name, self.took[what] = self._compare(self._attentions(keys), self._device)
        return name

    def _attentions(self, keys: int) -> dict[str, Callable[[], Tensor]]:
        queries, heads, dim = self._asked()
        q, k, v = self._random(1, queries, heads, dim), *(self._random(1, keys, heads, dim) for _ in range(2))
        return {name: partial(way, q, k, v) for name, way in ATTENTIONS.items()}

    def torchs_own(self) -> Iterator[Callable[[], Tensor]]:
        """What is compared here and launches none of our kernels."""
        for keys in (self.window_keys, self._config.architecture.text_tokens):
            yield from self._attentions(keys).values()
        yield from self._gelus().values()

    def shape(self, rows: int, window: str) -> int | None:
        """The kernel's fastest way to cut its work. None: with none of them it runs here."""
        from services.worker.models.wan.kernels.attention import EIGHT_BIT_SHAPES, SHAPES, by_slot

        eight = window == "slots8"
        space = self._swift.eight if eight else self._swift.turned
        assert space is not None
        keys = space.layer(0).keys.flatten(1, 2)
        values = (
            self._swift.eight.values[:, 0]
            if eight and self._swift.eight
            else space.layer(0).values.flatten(1, 2)
        )
        queries, heads, dim = self._asked()
        q, slots = self._random(rows, queries, heads, dim), torch.arange(rows, device=self._device)
        shapes = EIGHT_BIT_SHAPES if eight else SHAPES
        ways = {
            str(n): (lambda shape=shape: by_slot(q, keys, values, slots, self.window_keys, shape))
            for n, shape in enumerate(shapes)
        }
        works = runnable(ways)
        if not works:
            return None
        name, self.took[f"{window}, {rows}"] = self._compare(works, self._device)
        return int(name)

    def gelu(self) -> bool:
        """Whether the product that ends in a GELU is faster than the two apart."""
        name, self.took["gelu"] = self._compare(self._gelus(), self._device)
        return name == "together"

    def _gelus(self) -> dict[str, Callable[[], Tensor]]:
        block = self._swift.transformer.blocks[0]
        up = PlainProduct(block.ffn[0])  # type: ignore[index,arg-type]
        x = self._random(self._asked()[0], self._config.architecture.dim)
        return {
            "apart": lambda: F.gelu(up(x), approximate="tanh"),
            "together": lambda: up.with_gelu(x),
        }

    def spared(self, form: Form) -> str:
        """The products that eight bits make no faster, each tried alone."""
        tokens, _, _ = self._asked()
        native, pieces = self._swift.native_fp8, pieces_of(form.pieces)
        block: Block = self._swift.transformer.blocks[0]  # type: ignore[assignment]
        trial = Trial(block, pieces, tokens, gelu=form.gelu, native=native)
        spared = []
        for what, ways in trial.ways().items():
            works = {name or "none": repeated(way, self._capture) for name, way in ways.items()}
            name, took = self._compare(works, self._device, EIGHT_BITS_TOLERANCE)
            self.took[f"in 16 bits, {what}"] = {n: ms / REPEATS for n, ms in took.items()}
            spared.append("" if name == "none" else name)
        return joined(spared)

    def by_kernel(self, window: str) -> bool:
        """Whether a kernel finds the keys of such a window here."""
        eight_bits = window == "slots8"
        return usable(self._device) and attends(self._asked()[2], eight_bits=eight_bits)

    @property
    def window_keys(self) -> int:
        """That a row of a full window sees."""
        return self._config.recipe.window_frames * self._config.geometry.frame_tokens

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device).to(self._dtype)

    def _asked(self) -> tuple[int, int, int]:
        arch, geometry = self._config.architecture, self._config.geometry
        return geometry.chunk_latent_frames * geometry.frame_tokens, arch.heads, arch.head_dim
