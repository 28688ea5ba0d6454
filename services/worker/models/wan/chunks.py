"""Chunks under way: how they begin, their forwards, their pictures, and their end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from services.worker.models.in_pieces import InPieces
from services.worker.models.slots import Pool
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.frames import Later, copied_later, pixels
from services.worker.models.wan.latents import CleanLatents
from services.worker.models.wan.noise_ahead import NoiseAhead
from services.worker.models.wan.passes import Pass, chunk_passes, recache
from services.worker.models.wan.session import (
    DECODER,
    PRESENT,
    Begun,
    Decoder,
    State,
    places_together,
    ring_parts,
)
from services.worker.models.wan.stepper import Stepper


class Chunks:
    """Device thread only."""

    def __init__(
        self, config: WanConfig, pool: Pool, stepper: Stepper, noise: NoiseAhead, decoder: Decoder
    ) -> None:
        self._config, self._stepper, self._noise, self._decoder = config, stepper, noise, decoder
        self._present, self._cache = pool["present"], pool["decoder"]
        self._together = places_together(config)
        self.latents = CleanLatents(config, pool)

    def begin(self, state: State, begun: Begun) -> None:
        """With one under way: that one again."""
        self._noise.want(state.seed, state.chunk, [0])
        latent = self.enter(state, begun)
        first = self._noise.take(state.seed, state.chunk, 0)
        latent.copy_(first.to(latent.device, non_blocking=True))
        state.versions.wrote([PRESENT])

    def enter(self, state: State, begun: Begun, left: int = 0) -> Tensor:
        """The chunk begun so is under way, with its last `left` forwards to come; 0: all. Returns where its
        latents are.
        """
        self._stepper.forget(state)
        state.begun, state.fp8 = begun, begun.fp8
        state.latent = self._present[state.slot]
        passes = self._passes(state, begun)
        state.passes = passes[-left:]
        state.writes, state.final = self._written(passes), frozenset()
        self._noise.want(state.seed, state.chunk, [p.step + 1 for p in state.passes if p.next_level])
        self._noise.want(state.seed, state.chunk + 1, [0])
        return state.latent

    def _passes(self, state: State, begun: Begun) -> tuple[Pass, ...]:
        return chunk_passes(
            self._config.recipe,
            state.frames,
            self._config.geometry.chunk_latent_frames,
            steps=begun.steps,
            window_frames=begun.window_frames,
            new_prompt=begun.new_prompt,
        )

    def _written(self, passes: Sequence[Pass]) -> frozenset[str]:
        return ring_parts([place for each in passes for place in each.written], self._together)

    def renew(self, state: State, *, fp8: bool = False, sink_too: bool = False) -> InPieces[None]:
        """Between two chunks: the window's keys and values anew from clean latents, as `recache` says. A
        piece takes about half as long as a step.
        """
        anew = recache(self._config.recipe, state.frames, sink_too=sink_too)
        self._stepper.forget(state)
        pieces = 2 * -(-anew.count // self._config.geometry.chunk_latent_frames)
        layers = -(-self._config.architecture.layers // pieces)
        written = ring_parts(anew.written, self._together)
        latents = self.latents.at(state, anew.written)
        for _ in self._stepper.in_pieces(state, anew, latents, fp8, layers):
            state.versions.wrote(written)
            yield
        state.versions.wrote(written)

    def forward(self, states: Sequence[State]) -> None:
        """One forward of each: rows that feed and see equally many frames go together. Nobody moves on
        before all could.
        """
        ordered = sorted(states, key=batch_key)
        alike = [list(rows) for _, rows in groupby(ordered, key=batch_key)]
        made = [self._stepped(rows) for rows in alike]
        for rows, latents in zip(alike, made, strict=True):
            for state, latent in zip(rows, latents, strict=True):
                self._move_on(state, latent)

    def _stepped(self, states: list[State]) -> Tensor:
        return self._stepper.step(states, [self._fed(state) for state in states])

    def _fed(self, state: State) -> Tensor:
        following = state.passes[0]
        return self.latents.at(state, following.written) if following.from_ring else _under_way(state)

    def _move_on(self, state: State, made: Tensor) -> None:
        done, *rest = state.passes
        state.passes, wrote = tuple(rest), self._written([done])
        state.final = wrote - self._written(rest)
        if done.denoises:
            _under_way(state).copy_(made)
            wrote |= {PRESENT}
        state.versions.wrote(wrote)
        self._end(state)

    def decode(self, state: State) -> Later:
        latents = _under_way(state)
        assert pictures_final(state), "the chunk's denoising comes first"
        assert not state.decoded, "a chunk is decoded once"
        state.newest = copied_later(latents.clone())
        frames = self._decoder.decode(latents, self._cache[state.slot], first=state.frames == 0)
        state.versions.wrote([DECODER])
        state.decoded = True
        self._end(state)
        return copied_later(pixels(frames))

    def warm_decoder(self, state: State) -> InPieces[None]:
        """Its cache, from latents whose pictures nobody wants: a chunk's at a time, as those were made, since
        all at once take gigabytes.
        """
        latents, first = self.latents.unbroken(state)
        for number, piece in enumerate(latents.split(self._config.geometry.chunk_latent_frames)):
            if number:
                yield
            self._decoder.decode(piece, self._cache[state.slot], first=first and number == 0)
            state.versions.wrote([DECODER])

    def _end(self, state: State) -> None:
        """Over once it is decoded and has no forward left, whichever came last. Before that it may be begun
        again, for which the window's latents are still as they were.
        """
        if state.decoded and not state.passes:
            latents = _under_way(state)
            self.latents.keep(state, latents)
            state.chunk, state.frames = state.chunk + 1, state.frames + len(latents)
            state.latent, state.decoded = None, False


def batch_key(state: State) -> tuple[int, int, bool]:
    """Frames fed and seen by the state's next forward, and whether in eight bits; only rows of one key go
    through one together.
    """
    return *state.passes[0].shape, state.fp8


def pictures_final(state: State) -> bool:
    """A pass that is left writes clean keys and values only."""
    return not any(each.denoises for each in state.passes)


def _under_way(state: State) -> Tensor:
    assert state.latent is not None, "begin_chunk comes first"
    return state.latent
