"""What flows while a session plays: chunks, the word that one is there, and the viewers' credit."""

from __future__ import annotations

import msgspec

from shared.contracts.session import Input, SessionView


class ChunkTimings(msgspec.Struct, frozen=True):
    """Seconds a chunk spent in each stage; `made_at` is the wall clock when its frames were encoded."""

    due_to_start_s: float = 0.0
    forward_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    made_at: float = 0.0


class Chunk(msgspec.Struct, frozen=True):
    """One entry of the chunk log. Its append is the commit: index n exists once, whoever made it.

    `media` is H.264 Annex-B that begins with a keyframe and its parameter sets, so every chunk is a join
    point. It is empty when `media_endpoint` names where to fetch it instead (no worker does so yet). `inputs`
    are the ones it shows.
    """

    session: str
    index: int
    epoch: int
    worker: str
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    media: bytes
    inputs_version: int
    inputs: list[Input]
    rung: str
    timings: ChunkTimings
    media_endpoint: str = ""
    traceparent: str = ""


class Latents(msgspec.Struct, frozen=True):
    """The clean latents of chunk `index`, kept in a durable stream so that any worker can rebuild the
    session.

    One message a place of the session's window, each overwritten in its turn. `origin`: the index at which
    the picture (last) began. `prompt`: the one it was made with. `data`: a contiguous array of `shape` and
    `dtype` (torch's names).
    """

    session: str
    index: int
    origin: int
    epoch: int
    prompt: str
    shape: list[int]
    dtype: str
    data: bytes


class ChunkReady(msgspec.Struct, frozen=True):
    """Chunk `index` is in the log at stream sequence `sequence`. A hint: readers also look by themselves now
    and then.
    """

    index: int
    sequence: int
    epoch: int


class SessionChanged(msgspec.Struct, frozen=True):
    """Placement saved a change of the row. Latest `revision` wins."""

    session: SessionView


class ViewerReport(msgspec.Struct, frozen=True):
    """One gateway's viewers of one session: how many, and the furthest `granted_through` among them.

    `granted_through` n means: a viewer is done with every chunk up to n, so chunks up to n + CREDIT_WINDOW
    may be made. Absolute and monotone; -1 before the first. Sent on change and every second, so that a lost
    one only delays. A gateway whose last viewer left says `viewers=0` once.
    """

    gateway: str
    viewers: int
    granted_through: int
