"""What a Wan model tells a worker of itself."""

from __future__ import annotations

import torch

from services.worker.models.protocol import ModelSpec, Rung
from services.worker.models.slots import Pool
from services.worker.models.wan.config import FPS, WanConfig

MAX_PROMPT_CHARS = 2000
FAST_STEPS = 2
EXACT_LEVELS, ROUNDED_LEVELS = 1.0, 16.0
"""By how much a pixel may differ in a batch of another size, in float32 and in 16 bits: there up to 9 levels
were seen, 0.6 on average.
"""


def spec_of(
    config: WanConfig,
    pool: Pool,
    dtype: torch.dtype,
    *,
    decoder: str,
    text_encoder: str,
    fast_precision: str,
    digest: str,
) -> ModelSpec:
    """`dtype`: of the weights. `decoder`, `text_encoder`: their names."""
    numbers, kv_numbers = (str(each).removeprefix("torch.") for each in (dtype, pool["kv"].dtype))
    geometry, recipe = config.geometry, config.recipe
    return ModelSpec(
        name=config.architecture.name,
        width=geometry.width,
        height=geometry.height,
        fps=FPS,
        first_chunk_frames=geometry.first_chunk_frames,
        chunk_frames=geometry.chunk_frames,
        latent_frames_per_chunk=geometry.chunk_latent_frames,
        steps=recipe.steps,
        rungs=(
            Rung("full", recipe.steps, recipe.window_frames, kv_numbers),
            Rung("fast", FAST_STEPS, recipe.window_frames, kv_numbers, fast_precision),
        ),
        max_prompt_chars=MAX_PROMPT_CHARS,
        weights_digest=digest,
        state_bytes=pool.row_bytes,
        architecture=(
            f"{config.architecture.name}, {recipe.name}: window of {recipe.window_frames} latent frames,"
            f" sink of {recipe.sink_frames}; {decoder} decoder"
        ),
        batch_tolerance_levels=EXACT_LEVELS if dtype == torch.float32 else ROUNDED_LEVELS,
        dtype=numbers if kv_numbers == numbers else f"{numbers}, K/V {kv_numbers}",
        slots=pool.slots,
        recent_chunks=-(-(recipe.window_frames - recipe.sink_frames) // geometry.chunk_latent_frames),
        sink_chunks=-(-recipe.sink_frames // geometry.chunk_latent_frames),
        text_encoder=text_encoder,
    )
