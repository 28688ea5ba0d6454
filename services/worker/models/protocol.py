"""The one protocol by which a model joins the worker.

A model steps *states*: one session's copy each (K/V ring, cross-attention K/V, decoder cache, clean latents,
next chunk index). Rows of one `forward` may differ in prompt, ring position and denoise step. All calls come
from the device thread, except `prompt_warnings`, which any thread may call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

State = Any
"""Opaque to everybody but its model. Dropping it frees all it held."""

COUNTERS_BYTES = 4096
"""What a state may export beside its `state_bytes`: seed, chunk, and other small numbers."""


@dataclass(frozen=True)
class Rung:
    """A named quality. `steps`: denoise forwards a chunk, the clean pass not counted."""

    name: str
    steps: int
    window_latent_frames: int
    kv_dtype: str


@dataclass(frozen=True)
class ModelSpec:
    """What a worker needs to know of its model. `rungs[0]` is the default one, and `steps` its steps.

    `state_bytes`: device memory that one copy takes between two chunks once its window is full, the same from
    then on. That is what `export_state` gives, small counters aside, and whatever `import_state` makes again
    from it; what only a chunk under way needs is not counted. Room is planned by it, so it is the largest of
    all rungs.

    `batch_tolerance_levels`: by how much (of 255) a pixel of one chunk may differ when it is made, from the
    same state, in a batch of another size; in one of the same size it may not at all.

    `slots`: how many copies it has places for, allocated at start. None: each copy has memory of its own.
    """

    name: str
    width: int
    height: int
    fps: float
    first_chunk_frames: int
    chunk_frames: int
    latent_frames_per_chunk: int
    steps: int
    rungs: tuple[Rung, ...]
    max_prompt_chars: int
    weights_digest: str
    state_bytes: int
    batch_tolerance_levels: float = 1.0
    slots: int | None = None


class SessionModel(Protocol):
    @property
    def spec(self) -> ModelSpec: ...

    def prompt_warnings(self, prompt: str) -> Sequence[str]:
        """What of `prompt` the model doesn't understand, in words. Lexical, cheap, without a device."""

    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:
        """A fresh copy. With `first_chunk` > 0 the picture starts anew, but indices and noise go on from
        there: for a session whose former copy was lost.
        """

    def set_prompt(self, state: State, prompt: str) -> None:
        """Shows in the next chunk begun."""

    def begin_chunk(self, state: State, rung: Rung) -> int:
        """Draw the noise, a function of (seed, chunk, step). Returns how many forwards the chunk takes."""

    def forward(self, states: Sequence[State]) -> None:
        """One denoise step or clean pass of each state's chunk. Rows of one call agree in what of their rungs
        shapes a forward: window and K/V dtype. If it raises, no state has moved on.
        """

    def decode(self, state: State) -> Any:
        """The finished chunk as uint8 [frames, height, width, 3] on the CPU; the state moves on."""

    def export_state(self, state: State) -> Mapping[str, Any]:
        """Tensors from which `import_state` makes a copy that goes on bit for bit the same. Asked between two
        chunks only.
        """

    def import_state(self, tensors: Mapping[str, Any]) -> State: ...
