"""What is fixed about a Wan model before any weight is read: widths, picture, and how a family steps it.

Nothing here touches torch, so that placement figures and tests can be had without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from services.worker.models import GeometryError

LATENT_CHANNELS = 16
SPACE_FACTOR = 8
TIME_FACTOR = 4
PATCH = 2
FPS = 16.0


@dataclass(frozen=True)
class Architecture:
    """The widths of a transformer. `text_tokens` × `text_dim` is what the text encoder gives."""

    name: str
    layers: int
    dim: int
    ffn_dim: int
    heads: int
    text_tokens: int = 512
    text_dim: int = 4096
    time_dim: int = 256

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise GeometryError(f"width {self.dim} doesn't split into {self.heads} heads of an even size")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


WAN_1_3B = Architecture("wan2.1-t2v-1.3b", layers=30, dim=1536, ffn_dim=8960, heads=12)
WAN_14B = Architecture("wan2.1-t2v-14b", layers=40, dim=5120, ffn_dim=13824, heads=40)
ARCHITECTURES = {arch.name: arch for arch in (WAN_1_3B, WAN_14B)}


@dataclass(frozen=True)
class Geometry:
    """The picture in pixels and the latent frames of a chunk."""

    width: int = 832
    height: int = 480
    chunk_latent_frames: int = 3

    def __post_init__(self) -> None:
        unit = SPACE_FACTOR * PATCH
        if self.width < unit or self.height < unit or self.width % unit or self.height % unit:
            near = tuple(max(unit, round(side / unit) * unit) for side in (self.width, self.height))
            raise GeometryError(
                f"{self.width}×{self.height} pixels can't be made: width and height must be multiples"
                f" of {unit} (the decoder's {SPACE_FACTOR} × the patch's {PATCH});"
                f" the nearest is {near[0]}×{near[1]}"
            )
        if self.chunk_latent_frames < 1:
            raise GeometryError(f"a chunk of {self.chunk_latent_frames} latent frames; it takes at least 1")

    @property
    def latent_height(self) -> int:
        return self.height // SPACE_FACTOR

    @property
    def latent_width(self) -> int:
        return self.width // SPACE_FACTOR

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.latent_height // PATCH, self.latent_width // PATCH

    @property
    def frame_tokens(self) -> int:
        return prod(self.grid)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return LATENT_CHANNELS, self.latent_height, self.latent_width

    @property
    def chunk_frames(self) -> int:
        return self.chunk_latent_frames * TIME_FACTOR

    @property
    def first_chunk_frames(self) -> int:
        """The first latent frame of a picture is one pixel frame."""
        return self.chunk_frames - (TIME_FACTOR - 1)


SMALL = Geometry(208, 112, 1)
"""91 tokens a latent frame, one of them a chunk."""


def geometry_of(text: str) -> Geometry:
    """From "832x480", "832x480x3" (with the latent frames of a chunk) or "small". Raises `GeometryError`."""
    if text == "small":
        return SMALL
    if (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})(?:x(\d{1,2}))?", text)) is None:
        raise GeometryError(f"{text!r}; write WIDTHxHEIGHT, WIDTHxHEIGHTxLATENTFRAMES or small")
    return Geometry(*(int(number) for number in found.groups() if number is not None))


@dataclass(frozen=True)
class Recipe:
    """How a published family of checkpoints is stepped.

    `window_frames` counts latent frames and includes the `sink_frames` oldest ones, which are never evicted,
    and the chunk being made. `recache_on_prompt`: a new prompt's first forward makes the window's K/V anew
    from its clean latents. `context_frames` > 0: there is no clean pass; the K/V of that many last latents
    are made anew before every chunk, and the window is they and the chunk.
    """

    name: str
    steps: int
    shift: float
    window_frames: int
    sink_frames: int = 0
    recache_on_prompt: bool = False
    context_frames: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sink_frames < self.window_frames or self.steps < 1:
            raise GeometryError(
                f"recipe {self.name}: {self.steps} steps, window {self.window_frames}, sink"
                f" {self.sink_frames}; a window is longer than its sink, and there is at least one step"
            )


SELF_FORCING = Recipe("self-forcing", steps=4, shift=5.0, window_frames=21)
LONGLIVE = Recipe("longlive", steps=4, shift=5.0, window_frames=12, sink_frames=3, recache_on_prompt=True)
KREA = Recipe("krea", steps=4, shift=5.0, window_frames=6, context_frames=3)


@dataclass(frozen=True)
class WanConfig:
    architecture: Architecture
    recipe: Recipe
    geometry: Geometry = Geometry()
    element_bytes: int = 2

    def __post_init__(self) -> None:
        room = self.recipe.window_frames - self.recipe.sink_frames
        needed = self.geometry.chunk_latent_frames + self.recipe.context_frames
        if room < needed or (self.recipe.context_frames and self.recipe.sink_frames):
            raise GeometryError(
                f"window of {self.recipe.window_frames} latent frames less a sink of"
                f" {self.recipe.sink_frames} has no room for {needed}: a chunk and its context"
            )

    @property
    def kv_shape(self) -> tuple[int, ...]:
        """A session's keys and values: layers, key or value, frames, tokens of a frame, heads, head size."""
        arch = self.architecture
        frames, tokens = self.recipe.window_frames, self.geometry.frame_tokens
        return arch.layers, 2, frames, tokens, arch.heads, arch.head_dim

    @property
    def cross_shape(self) -> tuple[int, ...]:
        arch = self.architecture
        return arch.layers, 2, arch.text_tokens, arch.heads, arch.head_dim

    @property
    def latents_shape(self) -> tuple[int, ...]:
        """The window's clean latents, in the places of their keys and values."""
        return self.recipe.window_frames, *self.geometry.latent_shape

    @property
    def kv_frame_bytes(self) -> int:
        return prod(self.kv_shape) // self.recipe.window_frames * self.element_bytes

    @property
    def kv_bytes(self) -> int:
        return prod(self.kv_shape) * self.element_bytes

    @property
    def cross_bytes(self) -> int:
        return prod(self.cross_shape) * self.element_bytes

    @property
    def latents_bytes(self) -> int:
        return prod(self.latents_shape) * self.element_bytes
