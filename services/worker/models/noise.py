"""Noise as a function of (seed, chunk, step), the same on every machine: a session is repeatable anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """A 63-bit generator seed; splitmix64 over the numbers, so that neighbours share nothing."""
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def draw(shape: Sequence[int], seed: int, chunk: int, step: int = 0) -> Tensor:
    """Unit normals, float32, always drawn on the CPU: a GPU's generator depends on how many cores it has."""
    generator = torch.Generator("cpu").manual_seed(mix(seed, chunk, step))
    return torch.randn(tuple(shape), generator=generator)
