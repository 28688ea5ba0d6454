"""A state's memory as a socket sees it: a host's as it is, a GPU's piece by piece through a pinned buffer.

A *buffer* is a flat, contiguous uint8 piece of a state's memory: a NumPy array or a tensor. Models without
torch exist, so torch is only looked up, never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from services.worker.transfer.link import Buffer, LinkRefused

_PIECE_BYTES = 8 << 20


def check_buffers(buffers: Sequence[Buffer]) -> None:
    """Raises `LinkRefused`."""
    for buffer in buffers:
        if not str(buffer.dtype).endswith("uint8") or len(buffer.shape) != 1:
            raise LinkRefused(f"a buffer is {buffer.dtype} {tuple(buffer.shape)}, not a vector of uint8")
        contiguous = buffer.flags.c_contiguous if isinstance(buffer, np.ndarray) else buffer.is_contiguous()
        if not contiguous:
            raise LinkRefused("only contiguous memory can be sent or received")
        if _device_of(buffer) not in {"cpu", "cuda"}:
            raise LinkRefused(f"memory on {buffer.device} can't be sent or received")


class HostViews:
    """What is to be sent, or was received, as views of host memory. One thread at a time."""

    def __init__(self) -> None:
        self._pinned: Any = None
        self._stream: Any = None

    def to_send(self, buffer: Buffer) -> Iterator[memoryview]:
        """Each view holds until the next one is asked for."""
        if _device_of(buffer) == "cpu":
            yield _view(buffer)
            return
        for piece, pinned in self._pieces(buffer):
            self._copy(pinned, piece)
            yield _view(pinned)

    def to_fill(self, buffer: Buffer) -> Iterator[memoryview]:
        """Each view must be full when the next one is asked for; the last one, when there is none."""
        if _device_of(buffer) == "cpu":
            yield _view(buffer)
            return
        for piece, pinned in self._pieces(buffer):
            yield _view(pinned)
            self._copy(piece, pinned)

    def _pieces(self, buffer: Any) -> Iterator[tuple[Any, Any]]:
        if self._pinned is None:
            torch = sys.modules["torch"]
            self._pinned = torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
            self._stream = torch.cuda.Stream(buffer.device)
        for piece in buffer.split(_PIECE_BYTES):
            yield piece, self._pinned[: len(piece)]

    def _copy(self, into: Any, source: Any) -> None:
        """On a stream of its own: sessions' steps beside it are not waited for."""
        with sys.modules["torch"].cuda.stream(self._stream):
            into.copy_(source, non_blocking=True)
        self._stream.synchronize()


def _device_of(buffer: Buffer) -> str:
    return "cpu" if isinstance(buffer, np.ndarray) else str(buffer.device.type)


def _view(buffer: Buffer) -> memoryview:
    array: Any = buffer if isinstance(buffer, np.ndarray) else buffer.detach().numpy()
    return memoryview(array)
