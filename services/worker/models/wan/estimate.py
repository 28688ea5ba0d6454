"""What serving a preset takes, before any weight is loaded: for `turboserve model check`."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from services.worker.models.slots import Layout
from services.worker.models.wan.config import KREA, LONGLIVE, SELF_FORCING, WAN_14B, Architecture, WanConfig
from services.worker.models.wan.loading import published_shapes
from services.worker.models.wan.preset import WORKSPACE_BYTES, slots_that_fit
from services.worker.models.wan.session import regions
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.vae import VaeDecoder

DEVICE_BYTES = 80_000_000_000
_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Estimate:
    """On a device of 80 GB, in bfloat16, at the default geometry. `recipe`: how the checkpoints are stepped.

    `state_bytes`: of a session. `sessions`: how many fit beside the weights and a forward's workspace.
    """

    recipe: str
    decoder: str
    width: int
    height: int
    window_frames: int
    weights_bytes: int
    workspace_bytes: int
    state_bytes: int
    sessions: int


def estimate(architecture: Architecture, *, low_rank: bool, small_decoder: bool) -> Estimate:
    """`low_rank`: with LongLive's updates, else as Self-Forcing (1.3B) or Krea (14B) are stepped."""
    recipe = KREA if architecture == WAN_14B else LONGLIVE if low_rank else SELF_FORCING
    config = WanConfig(architecture, recipe, element_bytes=_DTYPE.itemsize)
    with torch.device("meta"):
        decoder = TaehvDecoder() if small_decoder else VaeDecoder()
    numbers = sum(prod(shape) for shape in published_shapes(architecture).values())
    numbers += sum(tensor.numel() for tensor in decoder.state_dict().values())
    weights_bytes, state_bytes = numbers * _DTYPE.itemsize, Layout(regions(config, decoder, _DTYPE)).row_bytes
    return Estimate(
        recipe=recipe.name,
        decoder=decoder.name,
        width=config.geometry.width,
        height=config.geometry.height,
        window_frames=recipe.window_frames,
        weights_bytes=weights_bytes,
        workspace_bytes=WORKSPACE_BYTES,
        state_bytes=state_bytes,
        sessions=max(0, slots_that_fit(DEVICE_BYTES, weights_bytes, state_bytes)),
    )
