"""What moves a session's bytes between two worker processes that share no torch world.

A *pair* is two workers; its lower id is rank 0, so that both sides number themselves alike without asking. A
*link* is an open pair. An *invitation* is what the other side needs to join: made by rank 0, carried as
bytes by whoever talks to both (the bus). All calls block up to `deadline_at`, a time on the monotonic clock,
and belong on a transfer thread, never on the event loop or the device thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

TAG_BYTES = 16

Buffer = Any
"""A flat, contiguous uint8 piece of a state's memory: a NumPy array, or a tensor."""


class LinkLost(Exception):
    """The peer went away, or the link was aborted. The link is of no further use."""


class LinkLate(LinkLost):
    """The deadline passed: the peer hangs, or is too slow. The link was aborted."""


class LinkRefused(Exception):
    """The request can't be right, whatever the peer does. Nothing was sent."""


class Link(Protocol):
    """One transfer at a time in one direction: who takes a link from `Pairs` has it alone. After any
    `LinkLost` it stays lost.
    """

    def send(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        """All of `buffers`; returns when the peer has them. `tag`: `TAG_BYTES` that name this
        transfer (`tag_of`), which the receiver must expect.
        """

    def receive(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        """Into `buffers`, of exactly the sizes that are sent. Their content means nothing unless this
        returns.
        """

    def healthy(self) -> bool:
        """Whether the peer still seems to be there. Doesn't wait."""

    def abort(self) -> None:
        """From any thread: whatever waits on this link ends with `LinkLost`. Idempotent."""

    def close(self) -> None:
        """By the thread that uses the link. Idempotent."""


class Transport(Protocol):
    """One way to open links. `name` is what workers offer each other."""

    @property
    def name(self) -> str: ...

    @property
    def opens_alone(self) -> bool:
        """Whether a link may only be opened while no other link of this process is in use."""

    def invite(self) -> bytes:
        """Rank 0 only: for one `open` on each side."""

    def open(self, invitation: bytes, me: str, peer: str, deadline_at: float) -> Link:
        """Both sides, at about the same time. Raises `LinkLost`, `LinkRefused`."""


def rank_of(me: str, peer: str) -> int:
    if me == peer:
        raise LinkRefused(f"worker {me} can't open a link to itself")
    return 0 if me < peer else 1
