"""How a session gets to another worker: its state over the link, or rebuilt there from its latents.

A state that was sent goes on bit for bit, a rebuilt one only much the same. So sending is the rule, and
rebuilding is for links that make viewers wait.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

PRE_COPIES = 2


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


def way(picture: Picture, link_bytes_per_s: float, ahead_s: float) -> Way:
    """`ahead_s`: how long the furthest viewer can play what is made: a pause up to there nobody sees."""
    pause_s = sending_pause_s(picture, link_bytes_per_s)
    if picture.rebuild_s is None or pause_s <= max(ahead_s, picture.rebuild_s):
        return Way.SEND
    return Way.REBUILD


def sending_pause_s(picture: Picture, link_bytes_per_s: float) -> float:
    """From the freeze until the target has everything. Each pre-copy leaves what was changed while it ran."""
    rest = picture.state_bytes
    for _ in range(PRE_COPIES):
        chunks = rest / link_bytes_per_s // picture.chunk_s + 1
        rest = min(rest, int(chunks) * picture.chunk_bytes)
    return rest / link_bytes_per_s
