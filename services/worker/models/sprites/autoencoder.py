"""The causal video autoencoder of `sprites`: ÷ 4 in time, ÷ 8 in space, 16 latent channels.

Every convolution over time looks at the present and one past step only and is written as a convolution
over space of [present, past], so a stream is decoded piece by piece by carrying one past step per block.
`None` as a cache means "the picture starts here". The first frame alone makes the first latent: three
copies of it are put before it when encoding, and the three frames that answer to them are dropped when
decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
TIME_FACTOR = 4
SPACE_FACTOR = 8

Cache = list[Tensor]
"""One past step of features per block, in the order of the blocks."""


class CausalBlock(nn.Module):
    """Residual block over space and [present, past]; its cache is its last input step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x is [batch, time, channels, height, width]; past is one step of it, None for zeros."""
        first = torch.zeros_like(x[:, :1]) if past is None else past
        shifted = torch.cat([first, x[:, :-1]], dim=1)
        hidden = torch.cat([x, shifted], dim=2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        hidden = self.out(F.relu(self.mix(hidden)))
        return F.relu(x + hidden.view_as(x)), x[:, -1:].clone()


def over_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a layer over space to every step of [batch, time, …]."""
    y: Tensor = layer(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    return y.view(x.shape[0], x.shape[1], *y.shape[1:])


def split_time(x: Tensor, parts: int) -> Tensor:
    """[b, t, parts*c, h, w] -> [b, t*parts, c, h, w]."""
    b, t, c, h, w = x.shape
    return x.reshape(b, t * parts, c // parts, h, w)


def join_time(x: Tensor, parts: int) -> Tensor:
    b, t, c, h, w = x.shape
    return x.reshape(b, t // parts, parts * c, h, w)


class Encoder(nn.Module):
    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(12, fine, 3, padding=1)
        self.fine = CausalBlock(fine)
        self.to_middle = nn.Conv2d(2 * fine, middle, 2, stride=2)
        self.middle = CausalBlock(middle)
        self.to_coarse = nn.Conv2d(2 * middle, coarse, 2, stride=2)
        self.coarse = nn.ModuleList(CausalBlock(coarse) for _ in range(2))
        self.head = nn.Conv2d(coarse, LATENT_CHANNELS, 1)

    def forward(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """[b, t, 3, H, W] in -1..1 -> [b, t', 16, H/8, W/8]; t is 1 + 4n at the start, else 4n."""
        if cache is None:
            frames = torch.cat([frames[:, :1].expand(-1, TIME_FACTOR - 1, -1, -1, -1), frames], dim=1)
        past: Sequence[Tensor | None] = cache or [None] * 4
        x = F.relu(over_frames(self.stem, F.pixel_unshuffle(frames, 2)))
        x, fine = self.fine(x, past[0])
        x = F.relu(over_frames(self.to_middle, join_time(x, 2)))
        x, middle = self.middle(x, past[1])
        x = F.relu(over_frames(self.to_coarse, join_time(x, 2)))
        x, first = self.coarse[0](x, past[2])
        x, second = self.coarse[1](x, past[3])
        return over_frames(self.head, x), [fine, middle, first, second]


class Decoder(nn.Module):
    def __init__(self, widths: tuple[int, int, int] = (24, 64, 128)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(LATENT_CHANNELS, coarse, 3, padding=1)
        self.coarse = nn.ModuleList(CausalBlock(coarse) for _ in range(2))
        self.to_middle = nn.Conv2d(coarse, 2 * 4 * middle, 1)
        self.middle = CausalBlock(middle)
        self.to_fine = nn.Conv2d(middle, 2 * 4 * fine, 1)
        self.fine = CausalBlock(fine)
        self.head = nn.Conv2d(fine, 12, 3, padding=1)

    def forward(self, latents: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """[b, t, 16, h, w] -> [b, 4t, 3, 8h, 8w] about -1..1; at the start the first three frames are
        dropped."""
        past: Sequence[Tensor | None] = cache or [None] * 4
        x = F.relu(over_frames(self.stem, latents))
        x, first = self.coarse[0](x, past[0])
        x, second = self.coarse[1](x, past[1])
        x = F.relu(F.pixel_shuffle(split_time(over_frames(self.to_middle, x), 2), 2))
        x, middle = self.middle(x, past[2])
        x = F.relu(F.pixel_shuffle(split_time(over_frames(self.to_fine, x), 2), 2))
        x, fine = self.fine(x, past[3])
        x = F.pixel_shuffle(over_frames(self.head, x), 2)
        return (x[:, TIME_FACTOR - 1 :] if cache is None else x), [first, second, middle, fine]


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.register_buffer("mean", torch.zeros(LATENT_CHANNELS, 1, 1))
        self.register_buffer("spread", torch.ones(LATENT_CHANNELS, 1, 1))
        self.mean: Tensor
        self.spread: Tensor

    def encode(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Latents of mean 0 and variance 1 per channel over the training clips."""
        latents, cache = self.encoder(frames, cache)
        return (latents - self.mean) / self.spread, cache

    def decode(self, latents: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        frames, cache = self.decoder(latents * self.spread + self.mean, cache)
        return frames, cache
