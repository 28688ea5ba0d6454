"""`wan2.1-t2v-14b`: Krea's realtime checkpoint."""

from __future__ import annotations

from services.worker.models.wan.config import KREA, WAN_14B, Geometry
from services.worker.models.wan.model import Wan
from services.worker.models.wan.preset import load_preset


def load(device: str, weights_path: str = "", geometry: Geometry | None = None) -> Wan:
    return load_preset(WAN_14B, KREA, device, weights_path, geometry=geometry)
