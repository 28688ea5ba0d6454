"""The decoder of the Wan VAE, under its published parameter names, streaming: a session's cache is one flat
tensor.

Every convolution over three steps of time keeps its last two inputs. Zeros are a fresh cache, and what
comes before the first frame. Only the two doublings of time treat the first latent frame apart: it stays
one frame, and they don't remember it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.worker.models.wan.config import LATENT_CHANNELS, SPACE_FACTOR, Geometry

_PAST_STEPS = 2
_WIDTHS = (384, 384, 384, 192, 96)
_DOUBLES_TIME = (True, True, False)
_RESIDUALS = 3
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_SPREAD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

Past = Iterator[Tensor]
"""The cached steps of each convolution over time, in the order they run."""


class CausalConv3d(nn.Conv3d):
    """Over three steps of time: the present and two past ones. Keeps the newest two in `past`."""

    def __init__(self, channels: int, out: int, space: int = 3) -> None:
        super().__init__(channels, out, (3, space, space), padding=(0, space // 2, space // 2))

    def stream(self, x: Tensor, past: Past) -> Tensor:
        kept = next(past)
        joined = torch.cat([kept, x], dim=2)
        kept.copy_(joined[:, :, -_PAST_STEPS:])
        return self(joined)


class ChannelNorm(nn.Module):
    """Each place's channels to length 1, times √channels and a gain."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (x.shape[1] ** 0.5 * self.gamma)


class Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(channels, 3),
            nn.SiLU(),
            CausalConv3d(channels, out),
            ChannelNorm(out, 3),
            nn.SiLU(),
            nn.Identity(),  # dropout, in training
            CausalConv3d(out, out),
        )
        self.shortcut = nn.Conv3d(channels, out, 1) if channels != out else nn.Identity()

    def stream(self, x: Tensor, past: Past) -> Tensor:
        hidden = x
        for layer in self.residual:
            hidden = layer.stream(hidden, past) if isinstance(layer, CausalConv3d) else layer(hidden)
        shortened: Tensor = self.shortcut(x)
        return hidden + shortened


class SpaceAttention(nn.Module):
    """One head over the places of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def stream(self, x: Tensor, past: Past) -> Tensor:  # noqa: ARG002 (a layer like the others)
        frames = _frames(x)
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[3:])
        return x + _clip(self.proj(seen), x.shape[0])


class Upsample(nn.Module):
    """Twice as wide and high with half the channels; with `doubles_time` also twice as many frames."""

    def __init__(self, channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        enlarge = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(enlarge, nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv3d(channels, 2 * channels, 1) if doubles_time else None

    def stream(self, x: Tensor, past: Past, *, first: bool) -> Tensor:
        """`first`: x is the picture's first latent frame."""
        if self.time_conv is not None and first:
            next(past)
        elif self.time_conv is not None:
            halves = self.time_conv.stream(x, past).unflatten(1, (2, -1))
            x = halves.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return _clip(self.resample(_frames(x)), x.shape[0])


def _frames(x: Tensor) -> Tensor:
    """[b, c, t, h, w] -> [b·t, c, h, w]."""
    return x.transpose(1, 2).flatten(0, 1)


def _clip(x: Tensor, batch: int) -> Tensor:
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


class Layers(nn.Module):
    """The published `decoder`: stem, middle, four stages of residuals, enlargements between them, head."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        top, last = widths[0], widths[-1]
        self.conv1 = CausalConv3d(LATENT_CHANNELS, top)
        self.middle = nn.Sequential(Residual(top, top), SpaceAttention(top), Residual(top, top))
        self.upsamples = nn.Sequential(*_stages(widths))
        self.head = nn.Sequential(ChannelNorm(last, 3), nn.SiLU(), CausalConv3d(last, 3))

    def stream(self, x: Tensor, past: Past, *, first: bool) -> Tensor:
        x = self.conv1.stream(x, past)
        for layer in (*self.middle, *self.upsamples):
            x = layer.stream(x, past, first=first) if isinstance(layer, Upsample) else layer.stream(x, past)
        return self.head[2].stream(self.head[1](self.head[0](x)), past)  # type: ignore[operator]


def _stages(widths: Sequence[int]) -> Iterator[nn.Module]:
    for stage, (width, out) in enumerate(pairwise(widths)):
        entering = width if stage == 0 else width // 2
        for number in range(_RESIDUALS):
            yield Residual(out if number else entering, out)
        if stage < len(_DOUBLES_TIME):
            yield Upsample(out, doubles_time=_DOUBLES_TIME[stage])


class VaeDecoder(nn.Module):
    """`piece`: latent frames decoded at a time; more are faster and need more room."""

    name = "vae"

    def __init__(self, widths: Sequence[int] = _WIDTHS, piece: int = 1) -> None:
        super().__init__()
        self._widths, self._piece = tuple(widths), piece
        self._scaling: Tensor | None = None
        self.conv2 = nn.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Layers(widths)

    def cache_shapes(self, geometry: Geometry) -> list[tuple[int, ...]]:
        """[1, channels, 2 steps, height, width] for each convolution over time, in the order they run."""
        height, width = geometry.latent_height, geometry.latent_width
        top = self._widths[0]
        shapes = [(1, channels, _PAST_STEPS, height, width) for channels in (LATENT_CHANNELS, *[top] * 4)]
        for layer in self.decoder.upsamples:
            size = (_PAST_STEPS, height, width)
            if isinstance(layer, Residual):
                convs = [part for part in layer.residual if isinstance(part, CausalConv3d)]
                shapes += [(1, conv.in_channels, *size) for conv in convs]
            elif isinstance(layer, Upsample):
                if layer.time_conv is not None:
                    shapes.append((1, layer.time_conv.in_channels, *size))
                height, width = 2 * height, 2 * width
        return [*shapes, (1, self._widths[-1], _PAST_STEPS, height, width)]

    def decode(self, latents: Tensor, cache: Tensor, *, first: bool) -> Tensor:
        """[frames, 16, h, w] -> pixels in 0..1, [frames', 3, 8h, 8w]. `cache`: flat, zeros when `first`."""
        shapes = self.cache_shapes(Geometry(latents.shape[3] * SPACE_FACTOR, latents.shape[2] * SPACE_FACTOR))
        parts = cache.split([prod(shape) for shape in shapes])
        kept = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        spread, mean = self._scale(latents)
        x = self.conv2((latents * spread + mean).transpose(0, 1)[None])
        pieces = [x[:, :, :1], *x[:, :, 1:].split(self._piece, 2)] if first else x.split(self._piece, 2)
        made = [
            self.decoder.stream(part, iter(kept), first=first and number == 0)
            for number, part in enumerate(pieces)
            if part.shape[2]
        ]
        return torch.cat(made, dim=2)[0].transpose(0, 1).add(1).div(2).clamp(0, 1)

    def _scale(self, latents: Tensor) -> Tensor:
        """The latents' spread and mean [2, 16, 1, 1], made once: a copy from the host can't be in a graph."""
        if self._scaling is None:
            self._scaling = latents.new_tensor((LATENT_SPREAD, LATENT_MEAN))[..., None, None]
        return self._scaling
