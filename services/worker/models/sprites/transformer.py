"""The causal video transformer of `sprites`, built like the Wan family: per-frame timestep modulation,
self-attention over a window of cached chunks with un-roped keys and window-relative positions,
cross-attention to the prompt, FFN.

One set of weights, two ways to attend: `Window` (serving: new tokens against one session's ring) and
`Parallel` (training: all chunks of a clip at once, each seeing exactly what it would see when served).
The network predicts the clean latents; the velocity of flow matching is (x_t - x_0) / t.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.worker.models.sprites.autoencoder import LATENT_CHANNELS
from services.worker.models.sprites.vocabulary import TOKEN_COUNT

CHUNK = 3
GRID = (12, 20)
PATCH_GRID = (6, 10)
FRAME_TOKENS = PATCH_GRID[0] * PATCH_GRID[1]
CHUNK_TOKENS = CHUNK * FRAME_TOKENS
WINDOW_CHUNKS = 4
PATCH = LATENT_CHANNELS * 4
DIM, LAYERS, HEADS, HEAD_DIM, FFN, CROSS = 256, 6, 4, 64, 608, 128
CROSS_HEADS = 4
KV_SHAPE = (2, LAYERS, WINDOW_CHUNKS, CHUNK_TOKENS, HEADS, HEAD_DIM)


class Attend(Protocol):
    """Self-attention of one layer; q, k, v are [rows, tokens, heads, head_dim], q and k normalised and
    un-roped."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def patchify(latents: Tensor) -> Tensor:
    """[..., f, 16, 12, 20] -> [..., f*60, 64]."""
    *lead, f, c, h, w = latents.shape
    split = latents.reshape(-1, f, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return split.reshape(*lead, f * (h // 2) * (w // 2), c * 4)


def unpatchify(tokens: Tensor) -> Tensor:
    *lead, n, _ = tokens.shape
    h, w = PATCH_GRID
    split = tokens.reshape(-1, n // FRAME_TOKENS, h, w, LATENT_CHANNELS, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
    return split.reshape(*lead, n // FRAME_TOKENS, LATENT_CHANNELS, *GRID)


def rope_table(frames: Sequence[int]) -> Tensor:
    """cos and sin for every token of these window-relative latent frames: [2, len(frames)*60, 32]."""
    sizes = (12, 10, 10)  # pairs of a head for time, height, width
    places = (torch.tensor(frames, dtype=torch.float32), torch.arange(6.0), torch.arange(10.0))
    angles = [
        place[:, None] * 100.0 ** (-torch.arange(size) / size)
        for place, size in zip(places, sizes, strict=True)
    ]
    shape = (len(frames), *PATCH_GRID)
    grids = [
        angle.view([-1 if d == axis else 1 for d in range(3)] + [sizes[axis]]).expand(*shape, sizes[axis])
        for axis, angle in enumerate(angles)
    ]
    flat = torch.cat(grids, -1).reshape(-1, sum(sizes))
    return torch.stack([flat.cos(), flat.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x [..., tokens, heads, 64] turned by table [2, tokens, 32]."""
    cos, sin = table[0][:, None].to(x.dtype), table[1][:, None].to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[..., tokens, heads, d] each, any number of keys."""
    out = F.scaled_dot_product_attention(q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3))
    return out.transpose(-2, -3)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(6, DIM) / DIM**0.5)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.out = nn.Linear(DIM, DIM)
        self.norm_q, self.norm_k = nn.RMSNorm(DIM, eps=1e-6), nn.RMSNorm(DIM, eps=1e-6)
        self.norm_cross = nn.LayerNorm(DIM)
        self.cross_q, self.cross_kv = nn.Linear(DIM, CROSS), nn.Linear(DIM, 2 * CROSS)
        self.cross_out = nn.Linear(CROSS, DIM)
        self.norm_cross_q, self.norm_cross_k = nn.RMSNorm(CROSS, eps=1e-6), nn.RMSNorm(CROSS, eps=1e-6)
        self.ffn_in, self.ffn_out = nn.Linear(DIM, FFN), nn.Linear(FFN, DIM)

    def text_kv(self, text: Tensor) -> Tensor:
        """[rows, words, DIM] -> [rows, 2, words, heads, 32]: once per prompt."""
        k, v = self.cross_kv(text).chunk(2, -1)
        return torch.stack([self.norm_cross_k(k), v], 1).unflatten(-1, (CROSS_HEADS, -1))

    def project(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Modulated queries, keys and values of x, and this layer's modulation [rows, tokens/60 frames,
        6, DIM]."""
        mod = time + self.modulation
        q, k, v = self.qkv(_modulate(_norm(x), mod[:, :, 0], mod[:, :, 1])).chunk(3, -1)
        heads = (HEADS, HEAD_DIM)
        q, k = self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype)
        return q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads), mod

    def mix(self, x: Tensor, seen: Tensor, text_kv: Tensor, mod: Tensor) -> Tensor:
        """Everything after self-attention has `seen` what it attends to."""
        x = x + _gate(self.out(seen.flatten(-2)), mod[:, :, 2])
        q = self.norm_cross_q(self.cross_q(self.norm_cross(x))).unflatten(-1, (CROSS_HEADS, -1))
        x = x + self.cross_out(attention(q, text_kv[:, 0], text_kv[:, 1]).flatten(-2))
        hidden = F.relu(self.ffn_in(_modulate(_norm(x), mod[:, :, 3], mod[:, :, 4]))).square()
        return x + _gate(self.ffn_out(hidden), mod[:, :, 5])


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (DIM,), eps=1e-6)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    frames = x.unflatten(1, (shift.shape[1], -1))
    return (frames * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)


def _gate(x: Tensor, gate: Tensor) -> Tensor:
    return (x.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(PATCH, DIM)
        self.place = nn.Parameter(torch.randn(CHUNK_TOKENS, DIM) * 0.1)
        self.opening = nn.Parameter(torch.zeros(DIM))
        self.time = nn.Sequential(nn.Linear(128, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.time_modulation = nn.Linear(DIM, 6 * DIM)
        self.words = nn.Embedding(TOKEN_COUNT, DIM)
        self.text = nn.Sequential(
            nn.Linear(DIM, DIM), nn.GELU(approximate="tanh"), nn.Linear(DIM, DIM), nn.LayerNorm(DIM)
        )
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head_modulation = nn.Parameter(torch.randn(2, DIM) / DIM**0.5)
        self.head = nn.Linear(DIM, PATCH)
        _initialise(self)

    def text_kv(self, tokens: Tensor) -> Tensor:
        """Token ids [rows, 6] -> cross K/V of every layer, [rows, layers, 2, 6, heads, 32]."""
        text = self.text(self.words(tokens))
        return torch.stack([block.text_kv(text) for block in self.blocks], 1)  # type: ignore[operator]

    def forward(self, latents: Tensor, t: Tensor, opening: Tensor, text_kv: Tensor, attend: Attend) -> Tensor:
        """Clean latents of each row's chunk.

        latents [rows, 3, 16, 12, 20] at noise level t [rows, 3] (1 is noise); opening [rows] is 1 where
        the picture begins with this chunk, else 0; text_kv as made by `text_kv`.
        """
        x = self.patch(patchify(latents)) + self.place + opening[:, None, None] * self.opening
        embedded = self.time(_sinusoids(t))
        modulation = self.time_modulation(F.silu(embedded)).unflatten(-1, (6, DIM))
        for layer, block in enumerate(self.blocks):
            q, k, v, mod = block.project(x, modulation)  # type: ignore[operator]
            x = block.mix(x, attend(layer, q, k, v), text_kv[:, layer], mod)  # type: ignore[operator]
        mod = embedded[:, :, None] + self.head_modulation
        return unpatchify(self.head(_modulate(_norm(x), mod[:, :, 0], mod[:, :, 1])))


def _sinusoids(t: Tensor) -> Tensor:
    rates = torch.exp(-torch.arange(64, device=t.device) * (9.2 / 64))
    angles = t[..., None].float() * 1000.0 * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def _initialise(model: Transformer) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.words.weight, std=0.5)
    nn.init.normal_(model.time_modulation.weight, std=0.02)
    nn.init.zeros_(model.head.weight)
    for block in model.blocks:
        nn.init.zeros_(block.cross_out.weight)  # type: ignore[union-attr, arg-type]


def slot_of(chunk: int) -> int:
    """Where chunk n of a picture lives in the ring: the first stays (the sink), the others take turns."""
    return chunk if chunk < WINDOW_CHUNKS else 1 + (chunk - 1) % (WINDOW_CHUNKS - 1)


def window_of(chunk: int) -> list[int]:
    """The chunks that chunk n sees, itself last; their order gives the window-relative positions."""
    return list(range(chunk + 1)) if chunk < WINDOW_CHUNKS else [0, chunk - 2, chunk - 1, chunk]


@lru_cache(maxsize=4 * WINDOW_CHUNKS)
def place_table(order: int, device: torch.device) -> Tensor:
    """The rope table of the window's n-th chunk, counted from its oldest."""
    return rope_table([CHUNK * order + f for f in range(CHUNK)]).to(device)


class Ring:
    """One session's keys and values, for one chunk.

    `kv` (`KV_SHAPE`) has un-roped keys and is the state; `turned` holds the keys turned for the chunk being
    made.
    """

    def __init__(self, kv: Tensor) -> None:
        self.kv = kv
        self.turned = torch.empty_like(kv[0])

    def begin(self, chunk: int) -> None:
        """Turns the past keys to where chunk n sees them, once for all its forwards."""
        for order, seen in enumerate(window_of(chunk)[:-1]):
            slot = slot_of(seen)
            table = place_table(order, self.kv.device)
            self.turned[:, slot] = rotate(self.kv[0, :, slot], table)


class Window:
    """Serving: writes each row's new keys and values into its ring and attends to what the ring holds.

    `chunks` are the rows' chunk numbers within their picture; rows may differ in them. Softmax doesn't
    mind the order of keys, so a ring is never put in order or copied.
    """

    def __init__(self, rings: Sequence[Ring], chunks: Sequence[int]) -> None:
        tables = [
            place_table(len(window_of(chunk)) - 1, ring.kv.device)
            for ring, chunk in zip(rings, chunks, strict=True)
        ]
        self._rows = list(zip(rings, chunks, tables, strict=True))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for row, (ring, chunk, table) in enumerate(self._rows):
            slot, filled = slot_of(chunk), min(chunk + 1, WINDOW_CHUNKS)
            ring.kv[0, layer, slot], ring.kv[1, layer, slot] = k[row], v[row]
            ring.turned[layer, slot] = rotate(k[row], table)
            keys, values = ring.turned[layer, :filled].flatten(0, 1), ring.kv[1, layer, :filled].flatten(0, 1)
            out[row] = attention(rotate(q[row], table)[None], keys[None], values[None])[0]
        return out


class Parallel:
    """Training: all chunks of a batch of clips at once, twice.

    Rows are [2 streams, clips, chunks] flattened: first the clean stream, whose keys are what a clean
    pass would have left in the ring, then the noisy stream. A chunk of either sees the clean past of
    `window_of` and itself. Clips where `strange` is set see another clip's first chunk as their sink once
    their window is full, as if their own beginning were long ago.
    """

    def __init__(self, clips: int, chunks: int, device: torch.device) -> None:
        self._shape = (2, clips, chunks)
        self.strange = torch.zeros(clips, dtype=torch.bool, device=device)
        self._tables = [
            rope_table([CHUNK * o + f for f in range(CHUNK)]).to(device) for o in range(WINDOW_CHUNKS)
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        del layer  # nothing is kept between forwards
        q, k, v = (x.unflatten(0, self._shape) for x in (q, k, v))
        chunks = self._shape[2]
        edges = [(n, n + 1) for n in range(min(WINDOW_CHUNKS - 1, chunks))]
        if chunks >= WINDOW_CHUNKS:
            edges.append((WINDOW_CHUNKS - 1, chunks))
        return torch.cat(
            [span(q, k, v, first, end, self._tables, self.strange) for first, end in edges], dim=2
        ).flatten(0, 2)


def span(
    q: Tensor, k: Tensor, v: Tensor, first: int, end: int, tables: list[Tensor], strange: Tensor
) -> Tensor:
    """What chunks first..end-1 of `Parallel` attend to; they all see equally many chunks."""
    seen = window_of(first)
    own = len(seen) - 1
    keys, values = [], []
    for order, chunk in enumerate(seen[:-1]):
        part = slice(0, 1) if chunk == 0 else slice(chunk, chunk + end - first)
        past_k, past_v = k[:1, :, part], v[:1, :, part]
        if chunk == 0 and len(seen) == WINDOW_CHUNKS:
            chosen = strange[:, None, None, None, None]
            past_k, past_v = (torch.where(chosen, x.roll(1, 1), x) for x in (past_k, past_v))
        keys.append(rotate(past_k, tables[order]).expand(2, -1, end - first, -1, -1, -1))
        values.append(past_v.expand(2, -1, end - first, -1, -1, -1))
    keys.append(rotate(k[:, :, first:end], tables[own]))
    values.append(v[:, :, first:end])
    turned = rotate(q[:, :, first:end], tables[own])
    out = attention(
        turned.flatten(0, 2), torch.cat(keys, 3).flatten(0, 2), torch.cat(values, 3).flatten(0, 2)
    )
    return out.unflatten(0, (2, q.shape[1], end - first))
