"""Small configurations of the production structure, and tensors under the names they are published with."""

from math import prod

import torch
from torch import Tensor

from services.worker.models.noise import draw
from services.worker.models.wan.config import LONGLIVE, Architecture, Geometry, Recipe, WanConfig
from services.worker.models.wan.model import Wan
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.taehv import TaehvDecoder

ARCH = Architecture("tiny", layers=2, dim=48, ffn_dim=64, heads=2, text_tokens=6, text_dim=16, time_dim=32)
GEOMETRY = Geometry(64, 32, 3)
FRAME_GEOMETRY = Geometry(16, 16, 1)
DECODER_WIDTHS = (16, 16, 8, 8)


def config(recipe: Recipe = LONGLIVE, geometry: Geometry = GEOMETRY, arch: Architecture = ARCH) -> WanConfig:
    return WanConfig(arch, recipe, geometry, element_bytes=4)


def model(recipe: Recipe = LONGLIVE, geometry: Geometry = GEOMETRY, slots: int = 4, seed: int = 1) -> Wan:
    return random_model(
        config(recipe, geometry),
        seed,
        slots=slots,
        dtype=torch.float32,
        decoder=TaehvDecoder(DECODER_WIDTHS),
    )


def published(arch: Architecture = ARCH) -> dict[str, Tensor]:
    """A text-to-video transformer as Wan-AI's files name its tensors, of lively values."""
    wide, up, words = arch.dim, arch.ffn_dim, arch.text_dim
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding": (wide, 16, 1, 2, 2),
        "text_embedding.0": (wide, words),
        "text_embedding.2": (wide, wide),
        "time_embedding.0": (wide, arch.time_dim),
        "time_embedding.2": (wide, wide),
        "time_projection.1": (6 * wide, wide),
        "head.head": (64, wide),
    }
    gains: dict[str, tuple[int, ...]] = {}
    for block in range(arch.layers):
        at = f"blocks.{block}"
        shapes |= {f"{at}.self_attn.{part}": (wide, wide) for part in ("q", "k", "v", "o")}
        shapes |= {f"{at}.cross_attn.{part}": (wide, wide) for part in ("q", "k", "v", "o")}
        shapes |= {f"{at}.ffn.0": (up, wide), f"{at}.ffn.2": (wide, up)}
        for part in ("self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k"):
            gains[f"{at}.{part}.weight"] = (wide,)
        gains |= {
            f"{at}.norm3.weight": (wide,),
            f"{at}.norm3.bias": (wide,),
            f"{at}.modulation": (1, 6, wide),
        }
    gains["head.modulation"] = (1, 2, wide)
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        tensors[f"{name}.weight"] = draw(shape, 7, number, 0) / prod(shape[1:]) ** 0.5
        tensors[f"{name}.bias"] = draw(shape[:1], 7, number, 1) / 4
    for number, (name, shape) in enumerate(gains.items()):
        tensors[name] = draw(shape, 8, number) / 4 + (1.0 if "norm" in name and "bias" not in name else 0.0)
    return tensors
