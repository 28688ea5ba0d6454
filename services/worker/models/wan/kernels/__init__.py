"""The forward's pieces as Triton kernels. Imported only where Triton is there and the device can run it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch


def usable(device: torch.device) -> bool:
    """On a GPU, or anywhere in Triton's interpreter (for tests)."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return find_spec("triton") is not None and (device.type == "cuda" or interpreted)
