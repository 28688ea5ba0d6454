"""A stand-in for a GPU that lends its memory: a device of mapped files; its copies end when let."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from services.worker.transfer.ipc import IpcTransport
from services.worker.transfer.lending import Mapped, Place
from services.worker.transfer.link import Buffer, LinkLost, LinkRefused

_NUMBERS = itertools.count(1)


class Files:
    """See `Lending`; its own lane too. `refusal`: why nothing can be mapped here, as a GPU without peer
    access says. While `going` is not set, what is copied stays under way, and is read only after that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: dict[int, tuple[np.ndarray, str]] = {}
        self._told: list[tuple[Buffer, int]] = []
        self.mapped: dict[int, np.ndarray] = {}
        self.times_mapped = 0
        self.refusal = ""
        self.going, self.told = threading.Event(), threading.Event()
        self.going.set()
        self.proof = self.filled(np.random.default_rng().integers(0, 256, 64, np.uint8))

    def filled(self, content: Sequence[int] | np.ndarray) -> np.ndarray:
        made = self.blank(len(content))
        made[:] = content
        return made

    def blank(self, length: int) -> np.ndarray:
        number = next(_NUMBERS)
        path = self._folder / f"{id(self)}-{number}"
        path.write_bytes(bytes(length))
        self._own[number] = (_map(path), str(path))
        return self._own[number][0]

    def places(self, buffers: Sequence[Buffer]) -> list[Place]:
        return [self._place(buffer) for buffer in buffers]

    def _place(self, buffer: Buffer) -> Place:
        address = _address(buffer)
        for number, (held, _) in self._own.items():
            offset = address - held.ctypes.data
            if 0 <= offset < len(held):
                return Place(number, offset, len(buffer))
        raise LinkRefused("that is not memory of this device")

    def handle(self, allocation: int) -> bytes:
        return self._own[allocation][1].encode()

    def map(self, handle: bytes) -> Mapped:
        if self.refusal:
            raise LinkRefused(self.refusal)
        mapped = _map(Path(handle.decode()))
        self.mapped[mapped.ctypes.data] = mapped
        self.times_mapped += 1
        return Mapped(mapped.ctypes.data, len(mapped))

    def unmap(self, mapped: Mapped) -> None:
        assert not self._told, "unmapped under a copy"
        del self.mapped[mapped.address]

    def lane(self) -> Files:
        return self

    def copy(self, into: Sequence[Buffer], sources: Sequence[int]) -> None:
        self._told += zip(into, sources, strict=True)
        self.told.set()

    def idle(self) -> bool:
        if not self.going.is_set():
            return False
        for into, source in self._told:
            ctypes.memmove(_address(into), source, len(into))
        self._told.clear()
        return True

    def read(self, buffer: Buffer) -> bytes:
        return bytes(buffer)


class FailingFiles(Files):
    """Whose copies of a transfer fail once they were told."""

    failing = False

    def copy(self, into: Sequence[Buffer], sources: Sequence[int]) -> None:
        super().copy(into, sources)
        if self.failing:
            raise LinkLost("the GPU would not")


def _map(path: Path) -> np.ndarray:
    with path.open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)


def _address(buffer: Buffer) -> int:
    return int(buffer.ctypes.data if isinstance(buffer, np.ndarray) else buffer.data_ptr())


@contextlib.contextmanager
def transport_of(files: Files, host: str = "here") -> Iterator[IpcTransport]:
    transport = IpcTransport(files, host)
    yield transport
    transport.close()
