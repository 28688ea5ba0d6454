"""How a session gets to another worker: its state over the link, or rebuilt there from its latents.

A state that was sent goes on bit for bit, a rebuilt one only much the same. So sending is the rule, and
rebuilding is for links that make viewers wait. The source of a move asks, before anything is sent.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from services.worker.moving.patience import MAX_ROUNDS
from services.worker.transfer.choose import kind_of

_ASSUMED_BYTES_PER_S = {"ipc": 100e9, "nccl": 20e9, "tcp": 2.5e9}
_BELIEVED_S = 600.0
_MOST_PEERS = 256
_TELLING_BYTES = 16 << 20  # less says more of the announcement than of the link


class Way(enum.Enum):
    SEND = "send"
    REBUILD = "rebuild"


class Picture(NamedTuple):
    """What is known of a session before it moves. `chunk_bytes`: what one chunk changes of its state.
    `chunk_s`: how long one plays. `rebuild_s`: fetching its latents and recomputing; None: it can't be.
    """

    state_bytes: int
    chunk_bytes: int
    chunk_s: float
    rebuild_s: float | None

    def paused(self) -> Picture:
        """Of one that makes nothing while its state is sent: whoever waits for it waits for all of that."""
        return self._replace(chunk_bytes=self.state_bytes)


def way(picture: Picture, link_bytes_per_s: float, ahead_s: float, patience_s: float) -> Way:
    """`ahead_s`: how long the furthest viewer can play what is made: a pause up to there nobody sees.
    `patience_s`: after a longer one the move would be given up.
    """
    pause_s = sending_pause_s(picture, link_bytes_per_s)
    seen = pause_s > min(ahead_s, patience_s)
    quicker = picture.rebuild_s is not None and picture.rebuild_s < pause_s
    return Way.REBUILD if seen and quicker else Way.SEND


def sending_pause_s(picture: Picture, link_bytes_per_s: float) -> float:
    """From the freeze until the target has everything. Each pre-copy leaves what was changed while it ran."""
    rest = picture.state_bytes
    for _ in range(MAX_ROUNDS):
        chunks = rest / link_bytes_per_s // picture.chunk_s + 1
        rest = min(rest, int(chunks) * picture.chunk_bytes)
    return rest / link_bytes_per_s


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bytes per second to each peer, as seen last; what is long ago isn't believed. `now`: monotonic."""

    _seen: OrderedDict[tuple[str, str], tuple[float, float]] = field(default_factory=OrderedDict)

    def note(self, peer: str, transport: str, sent_bytes: int, took_s: float, now: float) -> None:
        if sent_bytes < _TELLING_BYTES:
            return
        self._seen[peer, transport] = sent_bytes / max(took_s, 1e-6), now
        self._seen.move_to_end((peer, transport))
        while len(self._seen) > _MOST_PEERS:
            self._seen.popitem(last=False)

    def bytes_per_s(self, peer: str, transport: str, now: float) -> float:
        rate, at = self._seen.get((peer, transport), (0.0, -_BELIEVED_S))
        return rate if now - at < _BELIEVED_S else _ASSUMED_BYTES_PER_S[kind_of(transport)]
