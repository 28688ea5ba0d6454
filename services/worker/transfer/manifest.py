"""What a move will send, said before a byte moves, and why a receiver refuses it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor

from services.worker.transfer.link import TAG_BYTES

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
_MAX_PARTS = 4096


class Part(msgspec.Struct, frozen=True):
    """One tensor. `checksum` "": not asked for."""

    name: str
    shape: list[int]
    dtype: str
    bytes: int
    checksum: str = ""


class Compatibility(msgspec.Struct, frozen=True):
    """A state goes on the same only where all of these are equal. `geometry`: width, height and frames of a
    chunk, as the model writes them.
    """

    architecture: str
    dtype: str
    weights_digest: str
    geometry: str


class Manifest(msgspec.Struct, frozen=True):
    move_id: str
    session: str
    compatibility: Compatibility
    parts: list[Part]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


class ManifestRefused(Exception):
    """In words: what doesn't fit, and what would."""


class Corrupt(Exception):
    """What arrived is not what was sent."""


def describe(
    tensors: Mapping[str, Tensor],
    *,
    move_id: str,
    session: str,
    compatibility: Compatibility,
    checksums: bool = False,
) -> Manifest:
    """`checksums` cost a pass over the bytes: for tests, and for links nobody trusts."""
    parts = [
        Part(
            name,
            list(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            tensor.numel() * tensor.element_size(),
            checksum_of(tensor) if checksums else "",
        )
        for name, tensor in tensors.items()
    ]
    return Manifest(move_id, session, compatibility, parts)


def check(
    manifest: Manifest,
    mine: Compatibility,
    room_bytes: int,
    layout: Mapping[str, Part] | None = None,
) -> None:
    """The receiver's, before it accepts. `layout`: the parts its own model's state has; None: unknown.
    Raises `ManifestRefused`.
    """
    for field in Compatibility.__struct_fields__:
        theirs, own = getattr(manifest.compatibility, field), getattr(mine, field)
        if theirs != own:
            raise ManifestRefused(
                f"the session's {field} is {theirs!r}, this worker's {own!r}: "
                "sessions move only between workers of the same compatibility class"
            )
    if not 0 < len(manifest.parts) <= _MAX_PARTS:
        raise ManifestRefused(f"{len(manifest.parts)} parts: expected 1 to {_MAX_PARTS}")
    if len({part.name for part in manifest.parts}) != len(manifest.parts):
        raise ManifestRefused("two parts have the same name")
    for part in manifest.parts:
        _check_part(part)
    if manifest.bytes > room_bytes:
        raise ManifestRefused(f"the state has {manifest.bytes} bytes, a slot here {room_bytes}")
    if layout is not None:
        _check_layout(manifest.parts, layout)


def buffers_for(manifest: Manifest, device: str = "cpu") -> dict[str, Tensor]:
    """Room for a checked manifest's parts, to be received into."""
    return {p.name: torch.empty(p.shape, dtype=_DTYPES[p.dtype], device=device) for p in manifest.parts}


def verify(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Raises `Corrupt`."""
    for part in manifest.parts:
        if part.checksum and checksum_of(tensors[part.name]) != part.checksum:
            raise Corrupt(
                f"part {part.name!r} of move {manifest.move_id} arrived with other bytes than were sent"
            )


def checksum_of(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().data, digest_size=16).hexdigest()


def tag_of(move_id: str, stage: int) -> bytes:
    """Names one transfer of a move: pre-copy rounds are stages 1 and 2, the rest after the freeze stage 0."""
    return hashlib.blake2b(f"{move_id}/{stage}".encode(), digest_size=TAG_BYTES).digest()


def _check_part(part: Part) -> None:
    dtype = _DTYPES.get(part.dtype)
    if dtype is None:
        raise ManifestRefused(
            f"part {part.name!r} has dtype {part.dtype!r}: expected one of {', '.join(_DTYPES)}"
        )
    if any(size < 0 for size in part.shape):
        raise ManifestRefused(f"part {part.name!r} has a negative size in its shape {part.shape}")
    bytes_of_shape = math.prod(part.shape) * dtype.itemsize
    if part.bytes != bytes_of_shape:
        raise ManifestRefused(
            f"part {part.name!r} says {part.bytes} bytes, "
            f"but {part.dtype} of shape {part.shape} has {bytes_of_shape}"
        )


def _check_layout(parts: Sequence[Part], layout: Mapping[str, Part]) -> None:
    missing = layout.keys() - {part.name for part in parts}
    if missing:
        raise ManifestRefused(
            f"the state lacks {', '.join(sorted(missing))}, which this worker's model needs"
        )
    for part in parts:
        own = layout.get(part.name)
        if own is None:
            raise ManifestRefused(f"this worker's model has no part {part.name!r}")
        if (own.shape, own.dtype) != (part.shape, part.dtype):
            raise ManifestRefused(
                f"part {part.name!r} is {part.dtype} {part.shape}, this worker's {own.dtype} {own.shape}"
            )
