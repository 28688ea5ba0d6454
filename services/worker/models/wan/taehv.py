"""The decoder of TAEHV (`taew2_1`), under its published parameter names: small, fast, less fine than the
Wan VAE.

Its memory blocks see the present frame and the one before it; a session's cache is those frames, in one
flat tensor. The three frames that answer to nothing at the start are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.worker.models.wan.config import LATENT_CHANNELS, SPACE_FACTOR, TIME_FACTOR, Geometry

_WIDTHS = (256, 128, 64, 64)
_TIME_GROWTH = (1, 2, 2)
_MEMORIES = 3


def _conv(channels: int, out: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


class SoftClamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Sequential(
            _conv(2 * channels, channels),
            nn.ReLU(),
            _conv(channels, channels),
            nn.ReLU(),
            _conv(channels, channels),
        )

    def stream(self, x: Tensor, past: Tensor) -> Tensor:
        """x [frames, channels, h, w]; `past`, the frame before them, becomes the last of them."""
        before = torch.cat([past, x[:-1]])
        past.copy_(x[-1:])
        return F.relu(self.conv(torch.cat([x, before], 1)) + x)


class GrowTime(nn.Module):
    """Each frame becomes `times` frames."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(channels, times * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grown: Tensor = self.conv(x)
        frames = grown.unflatten(1, (self.times, -1)).flatten(0, 1)
        return frames.contiguous(memory_format=torch.channels_last)


class TaehvDecoder(nn.Module):
    name = "taehv"

    def __init__(self, widths: Sequence[int] = _WIDTHS) -> None:
        super().__init__()
        self.decoder = nn.Sequential(*_layers(widths))

    def cache_shapes(self, geometry: Geometry) -> list[tuple[int, ...]]:
        """[1, channels, height, width] for each memory block, in the order they run."""
        shapes: list[tuple[int, ...]] = []
        height, width = geometry.latent_height, geometry.latent_width
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                shapes.append((1, layer.channels, height, width))
            elif isinstance(layer, nn.Upsample):
                height, width = 2 * height, 2 * width
        return shapes

    def decode(self, latents: Tensor, cache: Tensor, *, first: bool) -> Tensor:
        """[frames, 16, h, w] -> pixels in 0..1, [frames', 3, 8h, 8w]. `cache`: flat, zeros when `first`."""
        shapes = self.cache_shapes(Geometry(latents.shape[3] * SPACE_FACTOR, latents.shape[2] * SPACE_FACTOR))
        parts = cache.split([prod(shape) for shape in shapes])
        kept = iter([_channels_last(part, shape) for part, shape in zip(parts, shapes, strict=True)])
        x = latents.contiguous(memory_format=torch.channels_last)
        for layer in self.decoder:
            x = layer.stream(x, next(kept)) if isinstance(layer, MemoryBlock) else layer(x)
        return (x[TIME_FACTOR - 1 :] if first else x).clamp(0, 1)


def _channels_last(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A frame as convolutions are fastest: the channels of a place side by side."""
    _, channels, height, width = shape
    return part.view(1, height, width, channels).permute(0, 3, 1, 2)


def _layers(widths: Sequence[int]) -> Iterator[nn.Module]:
    yield from (SoftClamp(), _conv(LATENT_CHANNELS, widths[0]), nn.ReLU())
    for width, following, times in zip(widths, widths[1:], _TIME_GROWTH, strict=False):
        yield from (MemoryBlock(width) for _ in range(_MEMORIES))
        yield nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        yield GrowTime(width, times)
        yield _conv(width, following, bias=False)
    yield from (nn.ReLU(), _conv(widths[-1], 3))
