"""A causal Wan model as a `SessionModel`: sessions in slots, their denoise steps, and their frames."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from services.worker.models.protocol import MidChunk, Part, PastChunk, Rung
from services.worker.models.slots import Layout, Pool, Versions
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import Wishes
from services.worker.models.wan.frames import Later, copied_later, pixels
from services.worker.models.wan.noise_ahead import NoiseAhead, sent
from services.worker.models.wan.passes import Pass, chunk_passes, place_of, recache, window_of
from services.worker.models.wan.session import (
    CROSS,
    DECODER,
    LATENTS,
    PRESENT,
    Begun,
    Decoder,
    State,
    parts,
    places_together,
    regions,
    ring_parts,
    void_parts,
)
from services.worker.models.wan.spec import spec_of
from services.worker.models.wan.start import made_stepper
from services.worker.models.wan.stepper import Forms
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.text import EncodedElsewhere, StandInEncoder, TextEncoder
from services.worker.models.wan.transformer import Transformer
from shared.contracts.text import TextEncoded

FP8 = "float8_e4m3"
"""A rung's precision: products in eight bits, where the device can."""
_COUNTERS = ("seed", "chunk", "frames", "prompt", "shown", "new_text")
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
    ) -> None:
        """The modules carry their weights and are on the device, of one type of numbers."""
        wishes = wishes or Wishes()
        weight = transformer.patch_embedding.weight
        self._config, self._device, self._dtype = config, weight.device, weight.dtype
        self._transformer = transformer.eval().requires_grad_(requires_grad=False)
        transformer.ready(self._device)
        if isinstance(decoder, TaehvDecoder):
            decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._decoder: Decoder = decoder.eval().requires_grad_(requires_grad=False)  # type: ignore[assignment]
        self._encoder = encoder
        layout = Layout(regions(config, self._decoder, self._dtype, wishes.kv_dtype))
        self._pool = Pool(layout, slots, self._device)
        self._parts = parts(config, layout)
        geometry = config.geometry
        shape = (geometry.chunk_latent_frames, *geometry.latent_shape)
        self._noise = NoiseAhead(shape, pinned=self._device.type == "cuda")
        self._stepper = made_stepper(config, transformer, self._pool, self._noise, wishes)
        self._pool.soil()
        self._random = digest.startswith(RANDOM)
        self.spec = spec_of(
            config,
            self._pool,
            self._dtype,
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
        if state.lease is not None:
            state.lease()

    def learn(self, prompt: str, encoded: TextEncoded) -> object:
        """Raises `ValueError`."""
        assert isinstance(self._encoder, EncodedElsewhere), "spec.text_encoder says who learns"
        return self._encoder.learn(prompt, encoded)

    def read_stand_ins(self) -> None:
        self._encoder = StandInEncoder(self._config.architecture)

    def set_prompt(self, state: State, prompt: str) -> None:
        self.set_text(state, self._encoder.encode(prompt), prompt)

    @torch.inference_mode()
    def set_text(self, state: State, embedding: Tensor, prompt: str) -> None:
        """A prompt encoded elsewhere: [words, text_dim], what is beyond text_tokens words unread."""
        words = embedding[: self._config.architecture.text_tokens]
        text = self._pool["text"][state.slot]
        text[: len(words)] = sent(words, self._device).to(self._dtype)
        text[len(words) :] = 0
        state.prompt, state.new_text = prompt, True
        state.versions.wrote([CROSS])

    @torch.inference_mode()
    def begin_chunk(self, state: State, rung: Rung) -> int:
        assert not state.decoded, "the forwards left come first"
        again = state.latent is not None and state.begun is not None and state.begun.new_prompt
        new_prompt = state.new_text or again
        self._take_text(state)
        self._noise.want(state.seed, state.chunk, [0])
        self._enter(state, Begun(rung.steps, rung.window_latent_frames, new_prompt, rung.precision == FP8))
        first = self._noise.take(state.seed, state.chunk, 0)
        _under_way(state.latent).copy_(first.to(self._device, non_blocking=True))
        state.versions.wrote([PRESENT])
        return len(state.passes)

    @torch.inference_mode()
    def take_prompt(self, state: State, rung: Rung) -> None:
        """The window's keys and values for the new prompt now, instead of with the next chunk."""
        assert state.latent is None, "a chunk under way is begun again"
        recipe = self._config.recipe
        if not state.new_text:
            return
        self._take_text(state)
        if recipe.recache_on_prompt and state.frames:
            anew = recache(recipe, state.frames)
            self._stepper.forget(state)
            state.fp8, state.passes = rung.precision == FP8, (anew,)
            self._stepped([state])
            state.passes = ()
            state.versions.wrote(ring_parts(anew.written, places_together(self._config)))

    def _enter(self, state: State, begun: Begun, left: int = 0) -> None:
        """The chunk begun so is under way, with its last `left` forwards to come; 0: all."""
        size = places_together(self._config)
        self._stepper.forget(state)
        state.begun, state.fp8 = begun, begun.fp8
        state.latent = self._pool["present"][state.slot]
        passes = self._passes(state, begun)
        state.passes = passes[-left:]
        state.writes = ring_parts([place for each in passes for place in each.written], size)
        self._noise.want(state.seed, state.chunk, [p.step + 1 for p in state.passes if p.next_level])
        self._noise.want(state.seed, state.chunk + 1, [0])

    def _passes(self, state: State, begun: Begun) -> tuple[Pass, ...]:
        return chunk_passes(
            self._config.recipe,
            state.frames,
            self._config.geometry.chunk_latent_frames,
            steps=begun.steps,
            window_frames=begun.window_frames,
            new_prompt=begun.new_prompt,
        )

    def batch_key(self, state: State) -> tuple[int, int, bool]:
        """Frames fed and seen by the state's next forward, and whether in eight bits; only rows of one key go
        through one together.
        """
        return *state.passes[0].shape, state.fp8

    @torch.inference_mode()
    def forward(self, states: Sequence[State]) -> None:
        """One forward of each: rows that feed and see equally many frames go together. Nobody moves on
        before all could.
        """
        ordered = sorted(states, key=self.batch_key)
        alike = [list(rows) for _, rows in groupby(ordered, key=self.batch_key)]
        made = [self._stepped(rows) for rows in alike]
        for rows, latents in zip(alike, made, strict=True):
            self._move_on(rows, latents)

    def pictures_final(self, state: State) -> bool:
        """A pass that is left writes clean keys and values only."""
        return not any(each.denoises for each in state.passes)

    @torch.inference_mode()
    def decode_later(self, state: State) -> Later:
        """As `decode`, but the pictures are waited for only when they are asked for."""
        latents = _under_way(state.latent)
        assert self.pictures_final(state), "the chunk's denoising comes first"
        assert not state.decoded, "a chunk is decoded once"
        state.newest = copied_later(latents.clone())
        cache = self._pool["decoder"][state.slot]
        frames = self._decoder.decode(latents, cache, first=state.frames == 0)
        state.versions.wrote([DECODER])
        state.decoded = True
        _end(state)
        return copied_later(pixels(frames))

    def decode(self, state: State) -> Tensor:
        return self.decode_later(state)()

    def memory(self, state: State) -> Tensor:
        return self._pool.row(state.slot)

    def parts(self, state: State) -> dict[str, Part]:
        return state.versions.parts()

    def counters(self, state: State) -> dict[str, Any]:
        assert state.latent is None, "a state has counters between two chunks"
        return {name: getattr(state, name) for name in _COUNTERS}

    def mid_chunk(self, state: State) -> MidChunk:
        assert state.begun is not None
        assert state.passes, "a chunk whose forwards are over can only be decoded"
        counters = {name: getattr(state, name) for name in _COUNTERS}
        counters |= {"begun": list(state.begun), "left": len(state.passes)}
        return MidChunk(counters, void_parts(state.passes, places_together(self._config)))

    def unsettled(self, state: State) -> frozenset[str]:
        decoder = {DECODER} if state.decoded else set()
        return frozenset() if state.latent is None else state.writes | {LATENTS, PRESENT} | decoder

    @torch.inference_mode()
    def reserve(self) -> State:
        """Raises `NoSlot`."""
        return self._lease()

    def blank(self, state: State) -> Any:
        return self._pool.blank(state.slot)

    def take_over(self, state: State, counters: Mapping[str, Any]) -> None:
        for name in _COUNTERS:
            setattr(state, name, counters[name])
        state.versions.wrote(self._parts)
        state.newest = state.latent = state.begun = None
        state.passes = ()
        if "left" in counters:
            self._enter(state, Begun(*counters["begun"]), counters["left"])

    @torch.inference_mode()
    def latents(self, state: State) -> PastChunk:
        assert state.frames or state.decoded, "a chunk was decoded"
        count = self._config.geometry.chunk_latent_frames
        origin = state.chunk - state.frames // count
        if state.newest is None:
            places = self._places(state.frames - count, count)
            state.newest = copied_later(self._pool["latents"][state.slot, places])
        return PastChunk(state.chunk - (not state.decoded), origin, state.shown, state.newest())

    @torch.inference_mode()
    def rebuild(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> State:
        """One long forward, and a decode thrown away.

        What an evicted frame had left in the window's keys and values is lost, and where the embedding of the
        newest chunk's prompt is, the next prompt stands for it. Raises `NoSlot`.
        """
        state, newest = self._lease(), past[-1]
        count = self._config.geometry.chunk_latent_frames
        for chunk in past:
            places = self._places((chunk.index - chunk.origin) * count, count)
            self._pool["latents"][state.slot, places] = chunk.latents.to(self._device, self._dtype)
        state.seed, state.chunk = seed, newest.index + 1
        state.frames = (state.chunk - newest.origin) * count
        shown = newest.prompt if self._encoder.knows(newest.prompt) else prompt
        self.set_prompt(state, shown)
        self._take_text(state)
        state.passes = (recache(self._config.recipe, state.frames, sink_too=True),)
        self._stepped([state])
        state.passes = ()
        self._warm_decoder(state)
        state.versions.wrote(self._parts)
        if prompt != shown:
            self.set_prompt(state, prompt)
        return state

    def _move_on(self, states: Sequence[State], made: Tensor) -> None:
        """After a forward of these that made the latents of each."""
        size = places_together(self._config)
        for state, latent in zip(states, made, strict=True):
            done, *rest = state.passes
            state.passes, wrote = tuple(rest), ring_parts(done.written, size)
            if done.denoises:
                _under_way(state.latent).copy_(latent)
                wrote |= {PRESENT}
            state.versions.wrote(wrote)
            if not rest:
                self._keep(state)
                _end(state)

    def _keep(self, state: State) -> None:
        """The finished chunk's latents, for forwards that begin from them."""
        latents, kept = _under_way(state.latent), self._pool["latents"][state.slot]
        for place, latent in zip(self._places(state.frames, len(latents)), latents, strict=True):
            kept[place] = latent  # one by one: a list of places would be copied to the device, waiting
        state.versions.wrote([LATENTS])

    def _stepped(self, states: list[State]) -> Tensor:
        return self._stepper.step(states, [self._fed(state) for state in states])

    def _fed(self, state: State) -> Tensor:
        following = state.passes[0]
        if following.from_ring:
            return self._pool["latents"][state.slot, list(following.written)]
        return _under_way(state.latent)

    def _take_text(self, state: State) -> None:
        """A new prompt's keys and values, once."""
        if state.new_text:
            text = self._pool["text"][state.slot]
            self._pool["cross"][state.slot] = self._transformer.text_kv(text)
            state.shown, state.new_text = state.prompt, False
            state.versions.wrote([CROSS])

    def _warm_decoder(self, state: State) -> None:
        """The decoder's cache from the newest latents that follow each other."""
        recipe = self._config.recipe
        frames = window_of(state.frames, recipe)
        run = [f for number, f in enumerate(frames) if frames[-1] - f == len(frames) - 1 - number]
        latents = self._pool["latents"][state.slot, [place_of(frame, recipe) for frame in run]]
        self._decoder.decode(latents, self._pool["decoder"][state.slot], first=run[0] == 0)

    def _places(self, start: int, count: int) -> list[int]:
        return [place_of(frame, self._config.recipe) for frame in range(start, start + count)]

    def _lease(self) -> State:
        state = State(self._pool.take(), Versions(self._parts))
        state.lease = weakref.finalize(state, self._pool.give_back, state.slot)
        state.lease.atexit = False  # the device may be gone by then
        return state


def _end(state: State) -> None:
    """The chunk is over once it is decoded and has no forward left, whichever came last."""
    if state.decoded and not state.passes:
        state.chunk, state.frames = state.chunk + 1, state.frames + len(_under_way(state.latent))
        state.latent, state.decoded = None, False


def _under_way(latent: Tensor | None) -> Tensor:
    assert latent is not None, "begin_chunk comes first"
    return latent
