"""The causal Wan transformer, reading and writing sessions' keys and values in the pool's slots.

Parameters carry the published names, but for self-attention's q, k and v, which are one product (`qkv`).
A forward's rows may be of any sessions, at any noise level, with any prompt and anywhere in their rings;
what they share is how many frames are fed and seen. Which slots and places they use are tensors, so a
forward has no host synchronisation and its addresses stay the same: it can be captured once per shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.worker.models.in_pieces import InPieces, at_once
from services.worker.models.wan.config import LATENT_CHANNELS, PATCH, Architecture, WanConfig
from services.worker.models.wan.fp8 import saturated
from services.worker.models.wan.passes import TIMESTEPS
from services.worker.models.wan.rope import rope_table, rotate

EPS = 1e-6
_PATCH_SIZE = (1, PATCH, PATCH)
_PATCH_VALUES = LATENT_CHANNELS * PATCH * PATCH


@dataclass(frozen=True)
class Rows:
    """Where one forward's rows keep their state; `kv` and `cross` are the pool's regions of all slots.

    `slots` is [rows], `places` [rows, frames seen]: the ring's places, oldest first, the last `count`
    written. `slot`: of a single row whose slot the host knows; its state can be read where it lies.
    """

    kv: Tensor
    cross: Tensor
    slots: Tensor
    places: Tensor
    count: int
    slot: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers computed with, whatever the ring holds."""
        return self.cross.dtype


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[rows, tokens, heads, head_dim] each, any number of keys. The one place that chooses a kernel."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Over the full width, all heads together."""
    return F.rms_norm(x, weight.shape, weight, EPS)


class SelfAttention(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self._heads = (arch.heads, arch.head_dim)
        self.qkv = nn.Linear(arch.dim, 3 * arch.dim)
        self.o = nn.Linear(arch.dim, arch.dim)
        self.norm_q, self.norm_k = nn.RMSNorm(arch.dim, EPS), nn.RMSNorm(arch.dim, EPS)

    def forward(self, x: Tensor, layer: int, rows: Rows, table: Tensor) -> Tensor:
        """x [rows, frames fed × tokens, dim]; table: the rope of the frames seen."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = rms_norm(q, self.norm_q.weight), rms_norm(k, self.norm_k.weight)
        q, k, v = (part.unflatten(1, (rows.count, -1)).unflatten(-1, self._heads) for part in (q, k, v))
        keys, values = rows.kv[:, layer, 0], rows.kv[:, layer, 1]
        slots, written = rows.slots[:, None], rows.places[:, -rows.count :]
        keys[slots, written], values[slots, written] = (saturated(part, rows.kv.dtype) for part in (k, v))
        seen_k, seen_v = (part[slots, rows.places].to(rows.dtype) for part in (keys, values))
        turned_q = rotate(q, table[:, -rows.count :])
        out = attention(turned_q.flatten(1, 2), rotate(seen_k, table).flatten(1, 2), seen_v.flatten(1, 2))
        mixed: Tensor = self.o(out.flatten(2))
        return mixed


class CrossAttention(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self._heads = (arch.heads, arch.head_dim)
        self.q, self.k, self.v, self.o = (nn.Linear(arch.dim, arch.dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(arch.dim, EPS), nn.RMSNorm(arch.dim, EPS)

    def text_kv(self, text: Tensor) -> Tensor:
        """[words, dim] -> [2, words, heads, head_dim]: once per prompt."""
        both = torch.stack([rms_norm(self.k(text), self.norm_k.weight), self.v(text)])
        return both.unflatten(-1, self._heads)

    def forward(self, x: Tensor, layer: int, rows: Rows) -> Tensor:
        q = rms_norm(self.q(x), self.norm_q.weight).unflatten(-1, self._heads)
        kv = rows.cross[:, layer][rows.slots]
        mixed: Tensor = self.o(attention(q, kv[:, 0], kv[:, 1]).flatten(2))
        return mixed


class Block(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = SelfAttention(arch), CrossAttention(arch)
        self.norm3 = nn.LayerNorm(arch.dim, EPS)
        self.ffn = nn.Sequential(
            nn.Linear(arch.dim, arch.ffn_dim), nn.GELU("tanh"), nn.Linear(arch.ffn_dim, arch.dim)
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, arch.dim))

    def forward(self, x: Tensor, time: Tensor, layer: int, rows: Rows, table: Tensor) -> Tensor:
        """time [rows, frames fed, 6, dim]."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation + time).unbind(2)
        x = x + _gated(self.self_attn(_modulated(x, shift, scale), layer, rows, table), gate)
        x = x + self.cross_attn(self.norm3(x), layer, rows)
        return x + _gated(self.ffn(_modulated(x, ffn_shift, ffn_scale)), ffn_gate)


class Head(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.head = nn.Linear(arch.dim, _PATCH_VALUES)
        self.modulation = nn.Parameter(torch.empty(1, 2, arch.dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """time [rows, frames fed, dim]."""
        shift, scale = (self.modulation + time[:, :, None]).unbind(2)
        velocity: Tensor = self.head(_modulated(x, shift, scale))
        return velocity


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm, then each frame's own scale and shift."""
    frames = F.layer_norm(x, x.shape[-1:], eps=EPS).unflatten(1, (shift.shape[1], -1))
    return (frames * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    return (x.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)


class Transformer(nn.Module):
    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        arch = config.architecture
        self._grid = config.geometry.grid
        self._time_dim, self._text_tokens = arch.time_dim, arch.text_tokens
        self.patch_embedding = nn.Conv3d(LATENT_CHANNELS, arch.dim, _PATCH_SIZE, _PATCH_SIZE)
        self.text_embedding = nn.Sequential(
            nn.Linear(arch.text_dim, arch.dim), nn.GELU("tanh"), nn.Linear(arch.dim, arch.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(arch.time_dim, arch.dim), nn.SiLU(), nn.Linear(arch.dim, arch.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(arch.dim, 6 * arch.dim))
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.layers))
        self.head = Head(arch)
        with torch.device("cpu"):  # a table is data, also where weights are still to come
            self.table = rope_table(config.recipe.window_frames, self._grid, arch.head_dim)

    def ready(self, device: torch.device) -> None:
        """The tables to where the weights are. float32 whatever the weights are."""
        self.table = self.table.to(device)

    def text_kv(self, text: Tensor) -> Tensor:
        """A prompt's embedding [up to text_tokens, text_dim] -> cross K/V of every layer.

        Short texts are filled up with zeros, as in training, and attended to in full.
        """
        filled = F.pad(text, (0, 0, 0, self._text_tokens - len(text)))
        embedded = self.text_embedding(filled)
        return torch.stack([block.cross_attn.text_kv(embedded) for block in self.blocks])  # type: ignore[operator, union-attr]

    def forward(self, latents: Tensor, levels: Tensor, rows: Rows) -> Tensor:
        """The velocity of latents [rows, frames fed, 16, h, w] at noise levels [rows, frames fed]."""
        return at_once(self.in_pieces(latents, levels, rows, len(self.blocks)))

    def in_pieces(self, latents: Tensor, levels: Tensor, rows: Rows, layers: int) -> InPieces[Tensor]:
        """So many layers a piece."""
        x = self.patches(latents)
        embedded, time = self.times(levels)
        table = self.table[:, : rows.places.shape[1]]
        for layer, block in enumerate(self.blocks):
            if layer and not layer % layers:
                yield
            x = block(x, time, layer, rows, table)
        return self.picture(self.head(x, embedded), latents.shape[1])

    def times(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Levels embedded, [rows, frames fed, dim], and for the blocks, [rows, frames fed, 6, dim]."""
        weight = self.patch_embedding.weight
        embedded = self.time_embedding(_wave(levels * TIMESTEPS, self._time_dim).to(weight.dtype))
        return embedded, self.time_projection(embedded).unflatten(-1, (6, -1))

    def patches(self, latents: Tensor) -> Tensor:
        """[rows, frames, 16, h, w] -> [rows, frames × tokens, dim]."""
        down, across = self._grid
        split = latents.unflatten(3, (down, PATCH)).unflatten(5, (across, PATCH))
        values = split.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(values, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def picture(self, x: Tensor, frames: int) -> Tensor:
        """The inverse; a token's values come with the channel last."""
        split = x.unflatten(2, (PATCH, PATCH, -1)).unflatten(1, (frames, *self._grid))
        return split.permute(0, 1, 6, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def _wave(position: Tensor, dim: int) -> Tensor:
    """[..., dim]: cosines, then sines; in float64, for positions up to 1000."""
    half = torch.arange(dim // 2, dtype=torch.float64, device=position.device)
    angles = position.double()[..., None] * torch.exp(-math.log(10_000) * half / (dim // 2))
    return torch.cat([angles.cos(), angles.sin()], -1)
