"""Reading the weights file, and saying in words what is wrong with one that can't be used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from services.worker.models import WeightsError

SHIPPED = Path(__file__).with_name("weights.safetensors")
_HINT = (
    "use a file made by services/worker/models/sprites/train, or leave weights_path empty for the shipped one"
)


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors in float32 and the file's SHA-256. Raises `WeightsError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights file {path} can't be read: {error.strerror}; {_HINT}") from None
    try:
        tensors = load(content)
    except (SafetensorError, ValueError) as error:
        problem = f"is not a whole safetensors file ({error})"
        raise WeightsError(f"weights file {path} of {len(content)} bytes {problem}; {_HINT}") from None
    return {name: tensor.float() for name, tensor in tensors.items()}, hashlib.sha256(content).hexdigest()


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load `tensors` into `module`. Raises `WeightsError` on other names or shapes, and on NaNs."""
    wanted = module.state_dict()
    problems = [
        *(f"{name} is missing" for name in wanted if name not in tensors),
        *(f"{name} is unknown" for name in tensors if name not in wanted),
        *(
            f"{name} is {list(tensor.shape)} instead of {list(wanted[name].shape)}"
            for name, tensor in tensors.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
        *(f"{name} holds NaN or infinity" for name, t in tensors.items() if not torch.isfinite(t).all()),
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise WeightsError(f"weights file {path} is not one of sprites: {shown}; {_HINT}")
    module.load_state_dict(tensors)
