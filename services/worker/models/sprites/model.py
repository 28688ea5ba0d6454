"""`sprites` as a `SessionModel`: sessions' states, their denoise steps, and their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from services.worker.models.in_pieces import InPieces, at_once
from services.worker.models.protocol import MidChunk, ModelSpec, Part, PastChunk, Rung
from services.worker.models.slots import Layout, Region, Spans, Versions
from services.worker.models.sprites import noise, vocabulary, weights
from services.worker.models.sprites.autoencoder import SPACE_FACTOR, TIME_FACTOR, Autoencoder
from services.worker.models.sprites.transformer import (
    CHUNK,
    DIM,
    GRID,
    KV_SHAPE,
    LAYERS,
    WINDOW_CHUNKS,
    Ring,
    Transformer,
    Window,
    slot_of,
)
from services.worker.models.sprites.vocabulary import Attributes

_T = TypeVar("_T")

FPS = 8.0
MAX_PROMPT_CHARS = 500
_WINDOW_FRAMES = WINDOW_CHUNKS * CHUNK
PRESENT = "present"
_TAIL = ("latents", "decoder")
"""The parts that decoding writes."""
RUNGS = (Rung("full", 2, _WINDOW_FRAMES, "float32"), Rung("fast", 1, _WINDOW_FRAMES, "float32"))


class Networks(nn.Module):
    """What the weights file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = Autoencoder()
        self.transformer = Transformer()


@dataclass(slots=True)
class State:
    """One session's copy. `row` is its memory, with views `kv`, `latents` (the newest chunk's clean ones,
    [3, 16, 12, 20]), `present` (those of the chunk under way) and `decoder`; `versions` tells when its parts
    were written.

    `chunk` counts from the session's first chunk, `picture_chunk` from where the picture (last) began anew,
    with chunk `origin`; both are of the chunk under way or next. `scene` and `next_text_kv` are of the newest
    prompt, `shown` and `text_kv` of the chunk under way or last made. While a chunk is under way, `ring` is
    where it attends, `noise` is its noise, `latent` is `present`, and `levels` those of the forwards
    still to come, 0 being the clean pass; `decoded`: its pictures were made, so it is over with that.
    """

    row: Tensor
    kv: Tensor
    latents: Tensor
    present: Tensor
    decoder: list[Tensor]
    versions: Versions
    seed: int
    chunk: int
    picture_chunk: int
    origin: int
    scene: Attributes
    shown: Attributes
    next_text_kv: Tensor
    text_kv: Tensor
    ring: Ring | None = None
    noise: Tensor | None = None
    latent: Tensor | None = None
    levels: tuple[float, ...] = ()
    decoded: bool = False


class Sprites:
    """The model on one device. Not thread-safe: the device thread owns it."""

    def __init__(self, networks: Networks, device: torch.device, digest: str) -> None:
        self._networks = networks.to(device).eval().requires_grad_(requires_grad=False)
        self._networks.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._transformer = networks.transformer
        self._device = device
        self._layout = Layout(self._regions())
        self._spans = _parts(self._layout)
        self._nothing = vocabulary.attributes({})
        self.spec = ModelSpec(
            name="sprites",
            width=GRID[1] * SPACE_FACTOR,
            height=GRID[0] * SPACE_FACTOR,
            fps=FPS,
            first_chunk_frames=CHUNK * TIME_FACTOR - (TIME_FACTOR - 1),
            chunk_frames=CHUNK * TIME_FACTOR,
            latent_frames_per_chunk=CHUNK,
            steps=RUNGS[0].steps,
            rungs=RUNGS,
            max_prompt_chars=MAX_PROMPT_CHARS,
            weights_digest=digest,
            state_bytes=self._layout.row_bytes,
            architecture=f"sprites, {LAYERS} layers of {DIM}, window of {WINDOW_CHUNKS} chunks",
            dtype="float32",
            recent_chunks=WINDOW_CHUNKS - 1,
            sink_chunks=1,
        )

    def prompt_warnings(self, prompt: str) -> tuple[str, ...]:
        return vocabulary.read(prompt).warnings

    @torch.inference_mode()
    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:
        state = self._blank()
        state.seed, state.chunk, state.origin = seed, first_chunk, first_chunk
        self.set_prompt(state, prompt)
        return state

    @torch.inference_mode()
    def set_prompt(self, state: State, prompt: str) -> None:
        state.scene = vocabulary.attributes(vocabulary.read(prompt).named, state.scene)
        state.next_text_kv = self._text_kv(state.scene)

    @torch.inference_mode()
    def begin_chunk(self, state: State, rung: Rung) -> int:
        assert not state.decoded, "the forwards left come first"
        # The same noise serves every step: they follow one straight line from it, as they did in training.
        self._begin(state, (*(1 - step / rung.steps for step in range(rung.steps)), 0.0))
        self._put(state, _under_way(state.noise))
        return len(state.levels)

    @torch.inference_mode()
    def forward(self, states: Sequence[State]) -> None:
        clean = self._transformer(
            torch.stack([_under_way(s.latent) for s in states]),
            torch.tensor([[s.levels[0]] * CHUNK for s in states], device=self._device),
            torch.tensor([float(s.picture_chunk == 0) for s in states], device=self._device),
            torch.cat([s.text_kv for s in states]),
            Window([_under_way(s.ring) for s in states], [s.picture_chunk for s in states]),
        )
        for state, latents in zip(states, clean, strict=True):
            _advance(state, latents)
            _end(state)

    def pictures_final(self, state: State) -> bool:
        return not any(state.levels)

    @torch.inference_mode()
    def decode(self, state: State) -> Tensor:
        assert self.pictures_final(state), "the chunk's denoising comes first"
        latents = _under_way(state.latent)
        frames = self._decode(state, latents, first=state.picture_chunk == 0)
        state.decoded = True
        _end(state)
        pixels = frames[0].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().contiguous()

    def memory(self, state: State) -> Tensor:
        return state.row

    def parts(self, state: State) -> dict[str, Part]:
        return state.versions.parts()

    def counters(self, state: State) -> dict[str, Any]:
        assert state.latent is None, "a state has counters between two chunks"
        return _counters(state)

    def mid_chunk(self, state: State) -> MidChunk:
        assert state.levels, "a chunk whose forwards are over can only be decoded"
        counters = _counters(state) | {"levels": list(state.levels)}
        return MidChunk(counters, frozenset([_written(state)]))

    def unsettled(self, state: State) -> frozenset[str]:
        tail = _TAIL if state.decoded else ()
        return frozenset() if state.latent is None else frozenset([_written(state), PRESENT, *tail])

    def reserve(self) -> State:
        return self._blank()

    @torch.inference_mode()
    def take_over(self, state: State, counters: Mapping[str, Any]) -> None:
        state.seed, state.chunk, state.origin = counters["seed"], counters["chunk"], counters["origin"]
        state.picture_chunk = counters["picture_chunk"]
        state.scene, state.shown = tuple(counters["scene"]), tuple(counters["shown"])
        state.next_text_kv, state.text_kv = self._text_kv(state.scene), self._text_kv(state.shown)
        state.versions.wrote(self._spans)
        state.noise = state.latent = state.ring = None
        state.levels = ()
        if "levels" in counters:
            self._enter(state, tuple(counters["levels"]))

    def latents(self, state: State) -> PastChunk:
        assert state.picture_chunk or state.decoded, "a chunk was decoded"
        prompt = vocabulary.describe(state.shown)
        return PastChunk(
            state.chunk - (not state.decoded), state.origin, prompt, state.latents.to("cpu", copy=True)
        )

    def rebuild(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> State:
        return at_once(self.rebuild_in_pieces(seed=seed, prompt=prompt, past=past))

    @torch.inference_mode()
    def rebuild_in_pieces(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> InPieces[State]:
        """Its clean passes again, as if the picture had begun just long enough ago: from then on a ring is
        the same every few chunks. Each sees fewer chunks before it than it once did, so they differ a little.
        """
        state = self._blank()
        state.seed, state.origin = seed, past[0].origin
        for number, chunk in enumerate(past):
            state.picture_chunk, state.chunk = number, chunk.index + 1
            self.set_prompt(state, chunk.prompt)
            self._begin(state, (0.0,))
            self._put(state, torch.as_tensor(chunk.latents))
            self.forward([state])
            yield
        self._decode(state, _under_way(state.latent), first=True)
        state.picture_chunk, state.noise, state.latent, state.ring = len(past), None, None, None
        self.set_prompt(state, prompt)
        return state

    def _begin(self, state: State, levels: tuple[float, ...]) -> None:
        state.shown, state.text_kv = state.scene, state.next_text_kv
        self._enter(state, levels)

    def _enter(self, state: State, levels: tuple[float, ...]) -> None:
        """Its chunk is under way, with these forwards to come."""
        state.levels, state.latent = levels, state.present
        state.noise = noise.draw(state.seed, state.chunk).to(self._device)
        state.ring = Ring(state.kv)
        state.ring.begin(state.picture_chunk)

    def _put(self, state: State, latents: Tensor) -> None:
        state.present.copy_(latents)
        state.versions.wrote([PRESENT])

    def _decode(self, state: State, latents: Tensor, *, first: bool) -> Tensor:
        frames, cache = self._networks.autoencoder.decode(latents[None], None if first else state.decoder)
        for kept, newest in zip(state.decoder, cache, strict=True):
            kept.copy_(newest)
        state.latents.copy_(latents)
        state.versions.wrote(_TAIL)
        return frames

    @torch.inference_mode(mode=False)
    def _blank(self) -> State:
        """Of zeros, in memory that anyone may write to."""
        row = torch.zeros(self._layout.row_bytes, dtype=torch.uint8, device=self._device)
        views, text_kv = self._layout.views(row), self._text_kv(self._nothing)
        decoder = [view for name, view in views.items() if name.startswith("decoder.")]
        return State(
            row,
            views["kv"],
            views["latents"],
            views["present"],
            decoder,
            Versions(self._spans),
            seed=0,
            chunk=0,
            picture_chunk=0,
            origin=0,
            scene=self._nothing,
            shown=self._nothing,
            next_text_kv=text_kv,
            text_kv=text_kv,
        )

    def _text_kv(self, scene: Attributes) -> Tensor:
        return self._transformer.text_kv(torch.tensor([vocabulary.token_ids(scene)], device=self._device))

    @torch.inference_mode()
    def _regions(self) -> list[Region]:
        """The decoder's are measured."""
        _, cache = self._networks.autoencoder.decode(torch.zeros(1, *noise.SHAPE, device=self._device))
        shapes = {"kv": KV_SHAPE, "latents": noise.SHAPE, PRESENT: noise.SHAPE}
        shapes |= {f"decoder.{block}": tuple(past.shape) for block, past in enumerate(cache)}
        return [Region(name, shape, torch.float32) for name, shape in shapes.items()]


def _parts(layout: Layout) -> dict[str, Spans]:
    """What one chunk writes of the ring, and what every chunk writes."""
    ring = {f"ring.{slot}": layout.cut("kv", 2, slot, slot + 1) for slot in range(WINDOW_CHUNKS)}
    decoder = [name for name in layout.names if name.startswith("decoder.")]
    others = {name: layout.whole(name) for name in ("latents", PRESENT)}
    return {**ring, **others, "decoder": layout.whole(*decoder)}


def _counters(state: State) -> dict[str, Any]:
    numbers = {"seed": state.seed, "chunk": state.chunk, "origin": state.origin}
    scenes = {"scene": list(state.scene), "shown": list(state.shown)}
    return numbers | scenes | {"picture_chunk": state.picture_chunk}


def _under_way(held: _T | None) -> _T:
    assert held is not None, "begin_chunk comes first"
    return held


def _advance(state: State, clean: Tensor) -> None:
    """After a forward: along the line from noise to `clean`; the clean pass changes no latents."""
    level, *rest = state.levels
    state.levels = tuple(rest)
    if level > 0:
        following = rest[0]
        state.present.copy_((1 - following) * clean + following * _under_way(state.noise))
    state.versions.wrote([_written(state), PRESENT])


def _end(state: State) -> None:
    """The chunk is over once it is decoded and has no forward left, whichever came last."""
    if state.decoded and not state.levels:
        state.chunk, state.picture_chunk = state.chunk + 1, state.picture_chunk + 1
        state.noise = state.latent = state.ring = None
        state.decoded = False


def _written(state: State) -> str:
    """Of the ring, by the chunk under way."""
    return f"ring.{slot_of(state.picture_chunk)}"


def load(device: str, weights_path: str = "") -> Sprites:
    """The model with its weights on `device`. Raises `WeightsError`."""
    torch.set_num_threads(1)
    path = Path(weights_path) if weights_path else weights.SHIPPED
    tensors, digest = weights.read(path)
    networks = Networks()
    weights.fill(networks, tensors, path)
    return Sprites(networks, torch.device(device), digest)
