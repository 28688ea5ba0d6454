"""What a `Stage` announces before its bytes come, and why a receiver refuses it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from services.worker.transfer.link import TAG_BYTES, Buffer
from services.worker.transfer.memory import HostViews
from shared.contracts.moves import Compatibility

MAX_SPANS = 65_536

Span = tuple[int, int]


class ManifestRefused(Exception):
    """In words: what doesn't fit, and what would."""


def check_compatible(theirs: Compatibility, mine: Compatibility) -> None:
    """Raises `ManifestRefused` with the first field that differs."""
    for field in Compatibility.__struct_fields__:
        their_value, my_value = getattr(theirs, field), getattr(mine, field)
        if their_value != my_value:
            raise ManifestRefused(
                f"the session's {field} is {their_value!r}, this worker's {my_value!r}: "
                "sessions move only between workers of the same compatibility class"
            )
    if not mine.architecture:
        raise ManifestRefused("this worker's model names no architecture: its sessions can't move")


def check_spans(spans: Sequence[Span], state_bytes: int) -> None:
    """Raises `ManifestRefused` unless they lie within a state's memory, in order and apart."""
    if len(spans) > MAX_SPANS:
        raise ManifestRefused(f"{len(spans)} spans: at most {MAX_SPANS} are taken")
    reached = 0
    for start, end in spans:
        if not reached <= start < end <= state_bytes:
            raise ManifestRefused(
                f"span [{start}, {end}) doesn't follow {reached} within {state_bytes} bytes of state"
            )
        reached = end


def merge(spans: Iterable[Span]) -> list[Span]:
    """The same bytes in order, in as few spans as will do."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of the one's bytes isn't among the other's, in order."""
    left = merge(spans)
    for start, end in others:
        around = [((a, min(b, start)), (max(a, end), b)) for a, b in left]
        left = [span for both in around for span in both if span[0] < span[1]]
    return left


def cut(memory: Any, spans: Sequence[Span]) -> list[Buffer]:
    return [memory[start:end] for start, end in spans]


def checksum_of(buffers: Sequence[Buffer]) -> str:
    """Of all of them in a row."""
    digest, views = hashlib.blake2b(digest_size=16), HostViews()
    for buffer in buffers:
        for view in views.to_send(buffer):
            digest.update(view)
    return digest.hexdigest()


def tag_of(move_id: str, stage: int) -> bytes:
    """Names one transfer of a move: pre-copy rounds are stages 1 and 2, the rest after the freeze stage 0."""
    return hashlib.blake2b(f"{move_id}/{stage}".encode(), digest_size=TAG_BYTES).digest()
