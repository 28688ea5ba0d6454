"""The forward's pieces as Triton kernels. Imported only where Triton is there and the device can run it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch


def usable(device: torch.device) -> bool:
    """On a GPU and on the meta device, which stands for one (`launch`); anywhere in Triton's interpreter (for
    tests).
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return find_spec("triton") is not None and (device.type in ("cuda", "meta") or interpreted)


def attends(head_dim: int, *, eight_bits: bool) -> bool:
    """Whether the kernels of attention know heads of that size: blocks are powers of two, and the tensor cores
    multiply no fewer than 16 numbers at a time, in e4m3 32.
    """
    return head_dim >= (32 if eight_bits else 16) and head_dim & (head_dim - 1) == 0
