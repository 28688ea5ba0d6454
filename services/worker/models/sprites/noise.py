"""Noise as a function of (seed, chunk, step), the same on every machine, and what the first chunk's noise
stands for.

Where the character starts is read off the noise of the first chunk: the corner patch of its first frame
holds two unit normals, one for x and one for y. Training draws the start first and shifts the noise to
agree, which leaves it exactly Gaussian; so the picture follows from (noise, prompt) and one or two steps
find it, where a model that must guess would paint the average of all starts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.worker.models.noise import draw as draw_normal
from services.worker.models.sprites.autoencoder import LATENT_CHANNELS
from services.worker.models.sprites.transformer import CHUNK, GRID

SHAPE = (CHUNK, LATENT_CHANNELS, *GRID)


def draw(seed: int, chunk: int, step: int = 0) -> Tensor:
    """[3, 16, 12, 20], float32."""
    return draw_normal(SHAPE, seed, chunk, step)


def with_start(noise: Tensor, start: Tensor) -> Tensor:
    """First-chunk noise [..., 3, 16, 12, 20] that says where a clip starts, [..., 2] in 0..1: the same with
    its corner shifted so that the normal distribution's value at half the corner's sum is `start`. Gaussian
    as long as start is uniform.
    """
    shift = torch.special.ndtri(start.clamp(1e-4, 1 - 1e-4)) * 2 - noise[..., 0, :2, :2, :2].sum(dim=(-2, -1))
    noise = noise.clone()
    noise[..., 0, :2, :2, :2] += shift[..., None, None] / 4
    return noise
