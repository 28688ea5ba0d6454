"""What a link by CUDA IPC needs of a device: memory that another process of its host may map and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from services.worker.transfer.link import Buffer


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a buffer lies: `offset` bytes into an allocation of its process."""

    allocation: int
    offset: int
    length: int


class Mapped(NamedTuple):
    """An allocation of a peer's, as this process sees it."""

    address: int
    size_bytes: int


class Lane(Protocol):
    """Copies of one link, in a queue of their own beside the sessions'."""

    def copy(self, into: Sequence[Buffer], sources: Sequence[int]) -> None:
        """Told the device, not waited for. Raises `LinkLost`; some copies may be under way then."""

    def idle(self) -> bool:
        """Whether all that was told is over. Doesn't wait. Raises `LinkLost`: the device failed."""


class Lending(Protocol):
    """Any thread. `proof`: a few bytes of its memory, for a peer that tries the way out."""

    @property
    def proof(self) -> Buffer: ...

    def places(self, buffers: Sequence[Buffer]) -> list[Place]:
        """Raises `LinkRefused`: not memory of this device."""

    def handle(self, allocation: int) -> bytes:
        """What a peer maps it by. `allocation`: one that `places` told."""

    def map(self, handle: bytes) -> Mapped:
        """Raises `LinkRefused`."""

    def unmap(self, mapped: Mapped) -> None:
        """Once no copy reads it any more."""

    def lane(self) -> Lane: ...

    def blank(self, length: int) -> Buffer:
        """Some memory of the device."""

    def read(self, buffer: Buffer) -> bytes: ...
