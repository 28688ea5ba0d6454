"""How far a coarser form of the model is from the one it stands for, from the same state and noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from services.worker.models.protocol import Rung
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State


class Error(NamedTuple):
    """Of one chunk. `latents`: the difference's length over that of the exact ones. `psnr_db`: of frames."""

    latents: float
    psnr_db: float


class Chunk(NamedTuple):
    latents: Tensor
    frames: Tensor


def made(model: Wan, state: State, rung: Rung) -> Chunk:
    for _ in range(model.begin_chunk(state, rung)):
        model.forward([state])
    assert state.latent is not None
    latents = state.latent.float().cpu()
    return Chunk(latents, model.decode(state).float())


def between(coarse: Chunk, exact: Chunk) -> Error:
    difference = (coarse.latents - exact.latents).norm() / exact.latents.norm()
    noise = (coarse.frames - exact.frames).square().mean().clamp(min=1e-9)
    return Error(float(difference), float(10 * torch.log10(255**2 / noise)))


def twin(model: Wan, state: State) -> State:
    """Another state that goes on the same way."""
    copy = model.reserve()
    model.memory(copy).copy_(model.memory(state))
    model.take_over(copy, model.counters(state))
    return copy
