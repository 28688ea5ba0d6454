"""What a session of a Wan model is: a few numbers, and the regions of its slot."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from services.worker.models.protocol import Final
from services.worker.models.slots import Layout, Region, Spans, Versions
from services.worker.models.wan.config import Geometry, Recipe, WanConfig
from services.worker.models.wan.marks import LAYERS_TOGETHER
from services.worker.models.wan.passes import Pass


class Decoder(Protocol):
    name: str

    def cache_shapes(self, geometry: Geometry) -> list[tuple[int, ...]]: ...

    def decode(self, latents: Tensor, cache: Tensor, *, first: bool) -> Tensor: ...


class Begun(NamedTuple):
    """What the forwards of a chunk follow from."""

    steps: int
    window_frames: int
    new_prompt: bool
    fp8: bool


@dataclass(slots=True, weakref_slot=True, eq=False)
class State:
    """One session's copy; what is large lives in its slot of the pool.

    `chunk` counts from the session's first chunk and names its noise, `frames` the latent frames since the
    picture (last) began anew. `prompt` is the newest, `shown` that of the chunk under way or last made;
    `new_text`: no chunk has been begun with the embedding in the slot. `versions` tells when the slot's parts
    were written. While a chunk is under way, `latent` is its present latents [frames, 16, h, w], a view of
    the slot, `begun` how it was begun, `passes` the forwards still to come, and `writes` the parts of the
    ring that any of its forwards writes; `fp8`: their products are in eight bits.
    `decoded`: its pictures were made, so with its last forward it is over.
    `newest`: the latents decoded last, on their way to the host.
    `final`: parts of the ring that the forward told last wrote, and none to come of its chunk will; `marks`:
    the events after which its layers are written; none, where forwards are over when they return.
    """

    slot: int
    versions: Versions
    seed: int = 0
    chunk: int = 0
    frames: int = 0
    prompt: str = ""
    shown: str = ""
    new_text: bool = False
    latent: Tensor | None = None
    begun: Begun | None = None
    passes: tuple[Pass, ...] = ()
    writes: frozenset[str] = frozenset()
    fp8: bool = False
    decoded: bool = False
    newest: Callable[[], Tensor] | None = None
    final: frozenset[str] = frozenset()
    marks: tuple[Any, ...] = ()
    lease: weakref.finalize | None = None


def regions(
    config: WanConfig, decoder: Decoder, dtype: torch.dtype, kv_dtype: torch.dtype | None = None
) -> list[Region]:
    """What a slot holds. `kv_dtype`: of the ring, where it isn't `dtype`."""
    arch = config.architecture
    cached = sum(prod(shape) for shape in decoder.cache_shapes(config.geometry))
    shapes = (
        ("kv", config.kv_shape),
        ("cross", config.cross_shape),
        ("text", (arch.text_tokens, arch.text_dim)),
        ("latents", config.latents_shape),
        ("present", (config.geometry.chunk_latent_frames, *config.geometry.latent_shape)),
        ("decoder", (cached,)),
    )
    return [Region(name, shape, (name == "kv" and kv_dtype) or dtype) for name, shape in shapes]


RING = "ring."
CROSS, LATENTS, PRESENT, DECODER = "cross", "latents", "present", "decoder"


class Layered(NamedTuple):
    """The bytes [start, end) of a slot, all of one layer."""

    layer: int
    start: int
    end: int


def parts(config: WanConfig, layout: Layout) -> dict[str, Spans]:
    """A slot cut by when it changes; what belongs to none of the named ones changes with every chunk."""
    size = places_together(config)
    window = config.recipe.window_frames
    ring = {
        f"{RING}{number}": layout.cut("kv", 2, number * size, (number + 1) * size)
        for number in range(window // size)
    }
    others = [name for name in layout.names if name not in {"kv", "cross", "text", "latents", "present"}]
    return {
        **ring,
        CROSS: layout.whole("cross", "text"),
        LATENTS: layout.whole("latents"),
        PRESENT: layout.whole("present"),
        DECODER: layout.whole(*others),
    }


def ring_by_layer(config: WanConfig, layout: Layout) -> dict[str, tuple[Layered, ...]]:
    """The spans of the ring's parts, cut where a layer ends."""
    layers = [layout.cut("kv", 0, at, at + 1)[0] for at in range(config.architecture.layers)]
    return {
        name: tuple(
            Layered(layer, max(start, first), min(end, last))
            for start, end in spans
            for layer, (first, last) in enumerate(layers)
            if max(start, first) < min(end, last)
        )
        for name, spans in parts(config, layout).items()
        if name.startswith(RING)
    }


def final_spans(state: State, layers: Mapping[str, Sequence[Layered]]) -> dict[str, tuple[Final, ...]]:
    """Of the parts that its last forward wrote for good. `layers`: of `ring_by_layer`."""
    marks = state.marks
    return {
        name: tuple(
            Final(start, end, marks[layer // LAYERS_TOGETHER] if marks else None)
            for layer, start, end in layers[name]
        )
        for name in state.final
    }


def places_together(config: WanConfig) -> int:
    """How many neighbouring places of the ring are always written together, sinks apart."""
    recipe: Recipe = config.recipe
    return gcd(config.geometry.chunk_latent_frames, recipe.sink_frames, recipe.window_frames)


def ring_parts(places: Sequence[int], size: int) -> frozenset[str]:
    """Those that some of these places lie in. `size`: `places_together`."""
    return frozenset(f"{RING}{place // size}" for place in places)


def void_parts(passes: Sequence[Pass], size: int) -> frozenset[str]:
    """The parts of the ring that these forwards write before any of them reads them."""
    written: set[int] = set()
    read: set[int] = set()
    for each in passes:
        read |= set(each.seen[: -each.count]) - written
        written |= set(each.written) - read
    whole = ring_parts(sorted(written), size)
    return frozenset(
        name for name in whole if written >= set(range((at := int(name[len(RING) :]) * size), at + size))
    )
