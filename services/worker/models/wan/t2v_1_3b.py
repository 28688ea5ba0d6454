"""`wan2.1-t2v-1.3b`: Self-Forcing checkpoints; LongLive ones where there is a LoRA, or random weights."""

from __future__ import annotations

from services.worker.models.wan.config import LONGLIVE, SELF_FORCING, WAN_1_3B, Geometry
from services.worker.models.wan.model import Wan
from services.worker.models.wan.preset import load_preset


def load(device: str, weights_path: str = "", geometry: Geometry | None = None) -> Wan:
    recipe = LONGLIVE if weights_path.startswith("random:") else SELF_FORCING
    return load_preset(WAN_1_3B, recipe, device, weights_path, geometry=geometry)
