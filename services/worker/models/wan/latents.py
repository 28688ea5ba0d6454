"""The clean latents in a session's slot: what its window can be made anew from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.models.protocol import PastChunk
from services.worker.models.slots import Pool
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.frames import copied_later
from services.worker.models.wan.noise_ahead import sent
from services.worker.models.wan.passes import place_of, window_of
from services.worker.models.wan.session import LATENTS, State


class CleanLatents:
    """Device thread only."""

    def __init__(self, config: WanConfig, pool: Pool) -> None:
        self._recipe, self._kept = config.recipe, pool["latents"]
        self._count = config.geometry.chunk_latent_frames

    def keep(self, state: State, latents: Tensor) -> None:
        """Those of the chunk that is over now: they take the places of the oldest."""
        kept = self._kept[state.slot]
        for place, latent in zip(self._places(state.frames, self._count), latents, strict=True):
            kept[place] = latent  # one by one: a list of places would be copied to the device, waiting
        state.versions.wrote([LATENTS])

    def at(self, state: State, places: Sequence[int]) -> Tensor:
        """[places, 16, h, w], a copy."""
        return torch.stack([self._kept[state.slot, place] for place in places])

    def newest(self, state: State) -> PastChunk:
        """Of the chunk decoded last."""
        assert state.frames or state.decoded, "a chunk was decoded"
        origin = state.chunk - state.frames // self._count
        if state.newest is None:
            state.newest = copied_later(self.at(state, self._places(state.frames - self._count, self._count)))
        return PastChunk(state.chunk - (not state.decoded), origin, state.shown, state.newest())

    def fill(self, state: State, past: Sequence[PastChunk]) -> None:
        """What a lost state had of them."""
        for chunk in past:
            places = self._places((chunk.index - chunk.origin) * self._count, self._count)
            latents = sent(chunk.latents, self._kept.device)
            for place, latent in zip(places, latents, strict=True):
                self._kept[state.slot, place] = latent.to(self._kept.dtype)

    def unbroken(self, state: State) -> tuple[Tensor, bool]:
        """The newest in the window that follow each other without a gap; whether the picture began with
        them.
        """
        frames = window_of(state.frames, self._recipe)
        run = [f for number, f in enumerate(frames) if frames[-1] - f == len(frames) - 1 - number]
        return self.at(state, [place_of(frame, self._recipe) for frame in run]), run[0] == 0

    def _places(self, start: int, count: int) -> list[int]:
        return [place_of(frame, self._recipe) for frame in range(start, start + count)]
