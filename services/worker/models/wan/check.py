"""Whether a checkpoint fits a preset, and what hinders it: for `turboserve model check PATH`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from services.worker.models.wan.checkpoint import Checkpoint, Tensors, read, read_folder
from services.worker.models.wan.config import ARCHITECTURES, Architecture
from services.worker.models.wan.loading import decoder_mismatches, mismatches, size, some
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.vae import VaeDecoder


@dataclass(frozen=True)
class Report:
    """What `check` found in one file. `architecture`: a preset's name, or "" where there is none."""

    path: str
    kind: str
    layout: str
    architecture: str
    dtypes: tuple[str, ...]
    parameters: int
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.kind != "unknown" and not self.problems


def check(path: Path) -> tuple[Report, ...]:
    """What each file at `path` (one file or a folder) is and what hinders its use. Raises `WeightsError`."""
    checkpoints = read_folder(path) if path.is_dir() else [read(path)]
    return tuple(_report(checkpoint) for checkpoint in checkpoints)


def _report(checkpoint: Checkpoint) -> Report:
    problems, architecture = [], ""
    if checkpoint.kind == "transformer":
        arch = _architecture(checkpoint.tensors)
        problems = mismatches(checkpoint, arch) if arch else [_foreign(checkpoint.tensors)]
        architecture = arch.name if arch else ""
    elif checkpoint.kind in ("vae", "taehv"):
        with torch.device("meta"):
            module = VaeDecoder() if checkpoint.kind == "vae" else TaehvDecoder()
        problems = decoder_mismatches(checkpoint, module)
    elif checkpoint.kind == "unknown":
        problems = [f"holds {some(list(checkpoint.tensors))}: nothing of the Wan 2.1 family"]
    problems += [
        f"{name} holds NaN or infinity"
        for name, tensor in checkpoint.tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    return Report(
        str(checkpoint.path),
        checkpoint.kind,
        checkpoint.layout,
        architecture,
        tuple(sorted({str(t.dtype).removeprefix("torch.") for t in checkpoint.tensors.values()})),
        sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        tuple(problems),
    )


def _architecture(tensors: Tensors) -> Architecture | None:
    """The preset of these widths."""
    dim, layers = size(tensors)
    return next((a for a in ARCHITECTURES.values() if (a.dim, a.layers) == (dim, layers)), None)


def _foreign(tensors: Tensors) -> str:
    dim, layers = size(tensors)
    known = "; ".join(f"{a.name}: {a.layers} × {a.dim}" for a in ARCHITECTURES.values())
    return f"is a transformer of {layers} layers of width {dim}, which is no preset ({known})"
