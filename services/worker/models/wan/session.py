"""What a session of a Wan model is: a few numbers, and the regions of its slot."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from services.worker.models.wan.config import Geometry, WanConfig
from services.worker.models.wan.passes import Pass
from services.worker.models.wan.slots import Region


class StateMismatch(ValueError):
    """A state of another architecture, geometry, decoder or type of numbers. The message gives the sizes."""


class Decoder(Protocol):
    name: str

    def cache_shapes(self, geometry: Geometry) -> list[tuple[int, ...]]: ...

    def decode(self, latents: Tensor, cache: Tensor, *, first: bool) -> Tensor: ...


@dataclass(slots=True, weakref_slot=True, eq=False)
class State:
    """One session's copy; what is large lives in its slot of the pool.

    `chunk` counts from the session's first chunk and names its noise, `frames` the latent frames since the
    picture (last) began anew. `new_text` is a prompt's embedding that no chunk has been begun with. While a
    chunk is under way, `latent` is its present latents [frames, 16, h, w] and `passes` the forwards still
    to come.
    """

    slot: int
    seed: int
    chunk: int
    frames: int = 0
    new_text: Tensor | None = None
    latent: Tensor | None = None
    passes: tuple[Pass, ...] = ()
    lease: weakref.finalize | None = None


def regions(config: WanConfig, decoder: Decoder, dtype: torch.dtype) -> list[Region]:
    """What a slot holds."""
    arch = config.architecture
    cached = sum(prod(shape) for shape in decoder.cache_shapes(config.geometry))
    shapes = (
        ("kv", config.kv_shape),
        ("cross", config.cross_shape),
        ("text", (arch.text_tokens, arch.text_dim)),
        ("latents", config.latents_shape),
        ("decoder", (cached,)),
    )
    return [Region(name, shape, dtype) for name, shape in shapes]
