"""A chunk's clean latents between the model, which keeps them as an array, and the cold tier."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from services.worker.models.protocol import PastChunk
from shared.contracts.fleet import Own
from shared.contracts.stream import Latents


def to_message(own: Own, chunk: PastChunk) -> Latents:
    array = chunk.latents
    shape, dtype = [int(size) for size in array.shape], str(array.dtype).removeprefix("torch.")
    return Latents(
        own.session, chunk.index, chunk.origin, own.epoch, chunk.prompt, shape, dtype, _bytes(array)
    )


def to_past(found: Sequence[Latents], next_chunk: int) -> tuple[PastChunk, ...]:
    """As if the newest were the chunk before `next_chunk`: what was lost between them is left out, and the
    picture's beginning moves with it. Raises `ValueError` for what is no array.
    """
    later = next_chunk - 1 - found[-1].index
    return tuple(
        dataclasses.replace(_past(one), index=one.index + later, origin=one.origin + later) for one in found
    )


def _past(one: Latents) -> PastChunk:
    torch = sys.modules.get("torch")  # models without torch exist
    try:
        if torch is None:
            array = np.frombuffer(one.data, one.dtype).reshape(one.shape)
        else:
            array = torch.frombuffer(bytearray(one.data), dtype=_dtype(torch, one.dtype)).reshape(one.shape)
    except (TypeError, RuntimeError) as error:
        raise ValueError(str(error)) from None
    return PastChunk(one.index, one.origin, one.prompt, array)


def _dtype(torch: Any, name: str) -> Any:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name[:40]!r} is no type of numbers")
    return dtype


def _bytes(array: Any) -> bytes:
    """NumPy has no bfloat16."""
    if isinstance(array, np.ndarray):
        return array.tobytes()
    uint8 = sys.modules["torch"].uint8
    data: bytes = array.contiguous().reshape(-1).view(uint8).numpy().tobytes()
    return data
