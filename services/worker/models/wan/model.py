"""A causal Wan model as a `SessionModel`: sessions in slots, their denoise steps, and their frames."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor, nn

from services.worker.models.in_pieces import InPieces, at_once
from services.worker.models.protocol import Final, MidChunk, Part, PastChunk, Rung
from services.worker.models.slots import Layout, Pool, Versions
from services.worker.models.wan import chunks
from services.worker.models.wan import counters as told
from services.worker.models.wan.chunks import Chunks
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import Wishes
from services.worker.models.wan.frames import Later
from services.worker.models.wan.noise_ahead import NoiseAhead
from services.worker.models.wan.prompts import Prompts
from services.worker.models.wan.session import (
    Begun,
    Decoder,
    State,
    final_spans,
    parts,
    places_together,
    regions,
    ring_by_layer,
)
from services.worker.models.wan.spec import spec_of
from services.worker.models.wan.start import made_stepper
from services.worker.models.wan.stepper import Forms
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.text import StandInEncoder, TextEncoder
from services.worker.models.wan.transformer import Transformer
from shared.contracts.text import TextEncoded

FP8 = "float8_e4m3"
"""A rung's precision: products in eight bits, where the device can."""
RANDOM = "random:"
"""Begins the digest of weights that were drawn, not trained; its seed follows."""


class Wan:
    """The model on one device. Not thread-safe: the device thread owns it."""

    def __init__(
        self,
        config: WanConfig,
        transformer: Transformer,
        decoder: nn.Module,
        encoder: TextEncoder,
        slots: int,
        digest: str,
        wishes: Wishes | None = None,
        rehearsed: Future[None] | None = None,
    ) -> None:
        """The modules carry their weights and are on the device, of one type of numbers. `rehearsed`: as of
        `made_stepper`.
        """
        wishes = wishes or Wishes()
        weight = transformer.patch_embedding.weight
        self._config = config
        self._transformer = transformer.eval().requires_grad_(requires_grad=False)
        transformer.ready(weight.device)
        if isinstance(decoder, TaehvDecoder):
            decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._decoder: Decoder = decoder.eval().requires_grad_(requires_grad=False)  # type: ignore[assignment]
        layout = Layout(regions(config, self._decoder, weight.dtype, wishes.kv_dtype))
        self._pool = Pool(layout, slots, weight.device)
        self._parts, self._together = parts(config, layout), places_together(config)
        self._layers = ring_by_layer(config, layout)
        self._prompts = Prompts(encoder, transformer, self._pool)
        geometry = config.geometry
        shape = (geometry.chunk_latent_frames, *geometry.latent_shape)
        self._noise = NoiseAhead(shape, pinned=weight.is_cuda)
        self._stepper = made_stepper(config, transformer, self._pool, self._noise, wishes, rehearsed)
        self._chunks = Chunks(config, self._pool, self._stepper, self._noise, self._decoder)
        self._pool.soil()
        self._random = digest.startswith(RANDOM)
        self.spec = spec_of(
            config,
            self._pool,
            weight.dtype,
            decoder=self._decoder.name,
            text_encoder=encoder.name,
            fast_precision=FP8 if self._stepper.fp8_forms.alone.fp8 else "",
            digest=digest,
        )

    @property
    def pool(self) -> Pool:
        return self._pool

    @property
    def forms(self) -> Forms:
        """How forwards are computed here."""
        return self._stepper.forms

    def prompt_warnings(self, prompt: str) -> tuple[str, ...]:  # noqa: ARG002
        return ("this model has random weights: its picture means nothing",) if self._random else ()

    @torch.inference_mode()
    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:
        """Raises `NoSlot`."""
        state = self._lease()
        state.seed, state.chunk = seed, first_chunk
        self.set_prompt(state, prompt)
        return state

    def close(self, state: State) -> None:
        """Gives the slot back; a second time does nothing. A state that is dropped gives it back too."""
        if state.lease is not None and state.lease.alive:
            self._noise.forget(state.seed, state.chunk)
            state.lease()

    def learn(self, prompt: str, encoded: TextEncoded) -> object:
        return self._prompts.learn(prompt, encoded)

    def read_stand_ins(self) -> None:
        self._prompts.read(StandInEncoder(self._config.architecture))

    def set_prompt(self, state: State, prompt: str) -> None:
        self._prompts.set(state, prompt)

    @torch.inference_mode()
    def begin_chunk(self, state: State, rung: Rung) -> int:
        assert not state.decoded, "the forwards left come first"
        again = state.latent is not None and state.begun is not None and state.begun.new_prompt
        new_prompt, fp8 = state.new_text or again, rung.precision == FP8
        self._prompts.take(state)
        self._chunks.begin(state, Begun(rung.steps, rung.window_latent_frames, new_prompt, fp8))
        return len(state.passes)

    @torch.inference_mode()
    def take_prompt_in_pieces(self, state: State, rung: Rung) -> InPieces[None]:
        """The window's keys and values for the new prompt now, instead of with the next chunk. Until all is
        done the text counts as new, so that a chunk begun meanwhile does it over.
        """
        assert state.latent is None, "a chunk under way is begun again"
        if not state.new_text:
            return
        self._prompts.read_out(state)
        if self._config.recipe.recache_on_prompt and state.frames:
            yield from self._chunks.renew(state, fp8=rung.precision == FP8)
        self._prompts.taken(state)

    def take_prompt(self, state: State, rung: Rung) -> None:
        at_once(self.take_prompt_in_pieces(state, rung))

    @torch.inference_mode()
    def forward(self, states: Sequence[State]) -> None:
        self._chunks.forward(states)

    def pictures_final(self, state: State) -> bool:
        return chunks.pictures_final(state)

    @torch.inference_mode()
    def decode_later(self, state: State) -> Later:
        """As `decode`, but the pictures are waited for only when they are asked for."""
        return self._chunks.decode(state)

    def decode(self, state: State) -> Tensor:
        return self.decode_later(state)()

    def memory(self, state: State) -> Tensor:
        return self._pool.row(state.slot)

    def parts(self, state: State) -> dict[str, Part]:
        return state.versions.parts()

    def counters(self, state: State) -> dict[str, Any]:
        return told.counters(state)

    def mid_chunk(self, state: State) -> MidChunk:
        return told.mid_chunk(state, self._together)

    def unsettled(self, state: State) -> frozenset[str]:
        return told.unsettled(state)

    def final(self, state: State) -> dict[str, tuple[Final, ...]]:
        return final_spans(state, self._layers)

    @torch.inference_mode()
    def reserve(self) -> State:
        """Raises `NoSlot`."""
        return self._lease()

    def blank(self, state: State) -> Any:
        return self._pool.blank(state.slot)

    def take_over(self, state: State, counters: Mapping[str, Any]) -> None:
        under_way = told.take_over(state, counters)
        state.versions.wrote(self._parts)
        if under_way is not None:
            self._chunks.enter(state, *under_way)
        else:
            self._noise.want(state.seed, state.chunk, [0])

    @torch.inference_mode()
    def latents(self, state: State) -> PastChunk:
        return self._chunks.latents.newest(state)

    def rebuild(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> State:
        return at_once(self.rebuild_in_pieces(seed=seed, prompt=prompt, past=past))

    @torch.inference_mode()
    def rebuild_in_pieces(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> InPieces[State]:
        """One long forward, and a decode thrown away.

        What an evicted frame had left in the window's keys and values is lost, and where the embedding of the
        newest chunk's prompt is, the next prompt stands for it. Raises `NoSlot`.
        """
        state, newest = self._lease(), past[-1]
        self._chunks.latents.fill(state, past)
        state.seed, state.chunk = seed, newest.index + 1
        state.frames = (state.chunk - newest.origin) * self._config.geometry.chunk_latent_frames
        shown = newest.prompt if self._prompts.knows(newest.prompt) else prompt
        self.set_prompt(state, shown)
        self._prompts.take(state)
        yield from self._chunks.renew(state, sink_too=True)
        yield
        yield from self._chunks.warm_decoder(state)
        state.versions.wrote(self._parts)
        if prompt != shown:
            self.set_prompt(state, prompt)
        return state

    def _lease(self) -> State:
        state = State(self._pool.take(), Versions(self._parts))
        state.lease = weakref.finalize(state, self._pool.give_back, state.slot)
        state.lease.atexit = False  # the device may be gone by then
        return state
