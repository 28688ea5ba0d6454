"""Weights files of any size looked at without loading them: names and shapes first, values piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from services.worker.models import WeightsError
from services.worker.models.wan.checkpoint import (
    SUFFIXES,
    Checkpoint,
    is_index,
    read_torch,
    reading,
    recognised,
    shards_of,
)

_PIECE_NUMBERS = 1 << 24
Pieces = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Unread:
    """`checkpoint`: of tensors without values. `pieces`: those of each, by its published name."""

    checkpoint: Checkpoint
    pieces: dict[str, Pieces]
    size_bytes: int


def open_unread(path: Path) -> Unread:
    """Raises `WeightsError`."""
    if is_index(path):
        files = shards_of(path)
    elif path.suffix in SUFFIXES:
        files = [path]
    else:
        raise WeightsError(f"weights file {path} is none of {', '.join(SUFFIXES)}")
    found: dict[str, tuple[Tensor, Pieces]] = {}
    for file in files:
        found |= _in_safetensors(file) if file.suffix == ".safetensors" else _in_torch(file)
    checkpoint = recognised(path, {name: shape for name, (shape, _) in found.items()})
    pieces = {id(shape): pieces for shape, pieces in found.values()}
    return Unread(
        checkpoint,
        {name: pieces[id(shape)] for name, shape in checkpoint.tensors.items()},
        sum(file.stat().st_size for file in files),
    )


def whole(pieces: Pieces) -> Tensor:
    """For small tensors only."""
    return torch.cat([piece.flatten() for piece in pieces()])


def _in_safetensors(path: Path) -> dict[str, tuple[Tensor, Pieces]]:
    def look() -> dict[str, tuple[Tensor, Pieces]]:
        with safe_open(path, "pt") as file:
            return {name: (_shape(file, name), partial(_slices, path, name)) for name in file.keys()}  # noqa: SIM118

    found: dict[str, tuple[Tensor, Pieces]] = reading(path, look)
    return found


def _shape(file: safe_open, name: str) -> Tensor:
    held = file.get_slice(name)
    shape = held.get_shape()
    dtype = held[0:0].dtype if shape else file.get_tensor(name).dtype
    return torch.empty(shape, dtype=dtype, device="meta")


def _slices(path: Path, name: str) -> Iterator[Tensor]:
    with safe_open(path, "pt") as file:
        held = file.get_slice(name)
        shape = held.get_shape()
        if not shape:
            yield file.get_tensor(name)
            return
        rows = max(1, _PIECE_NUMBERS // max(1, torch.Size(shape[1:]).numel()))
        for start in range(0, shape[0], rows):
            yield held[start : start + rows]


def _in_torch(path: Path) -> dict[str, tuple[Tensor, Pieces]]:
    """The values are mapped from the file, which the system reads as they are used."""
    return {
        name: (torch.empty_like(tensor, device="meta"), partial(_splits, tensor))
        for name, tensor in read_torch(path).items()
    }


def _splits(tensor: Tensor) -> Iterator[Tensor]:
    yield from tensor.flatten().split(_PIECE_NUMBERS)
