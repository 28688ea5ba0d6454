"""The text messages of the stream protocol, and the one a viewer sends. ARCHITECTURE.md has the table."""

from __future__ import annotations

from typing import Any

import msgspec

from services.gateway.bodies import SessionBody
from shared.contracts.session import CREDIT_WINDOW, Input, SessionView
from shared.contracts.stream import Chunk, ChunkTimings


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="session", rename={"first": "from"}):
    session: SessionBody
    first: int
    oldest_held: int
    next_chunk: int
    granted_through: int
    credit_window: int = CREDIT_WINDOW


class StageSeconds(msgspec.Struct, frozen=True):
    due_to_start_s: float
    forward_s: float
    decode_s: float
    encode_s: float


class ChunkFollows(msgspec.Struct, frozen=True, tag_field="type", tag="chunk"):
    """Directly before the chunk's binary message, which has `bytes` bytes."""

    index: int
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    bytes: int
    inputs_version: int
    inputs: list[Input]
    rung: str
    worker: str
    epoch: int
    timings: StageSeconds
    made_at: float


class State(msgspec.Struct, frozen=True, tag_field="type", tag="state"):
    status: str
    phase: str
    reason: str
    next_chunk: int
    worker: str
    inputs_version: int
    inputs: list[Input]
    warnings: list[str]
    position: int | None
    expected_wait_s: float | None
    rung: str
    served_rung: str
    decision: str


class CutOff(msgspec.Struct, frozen=True, tag_field="type", tag="cut", rename={"start": "from"}):
    start: int
    to: int


class ErrorEvent(msgspec.Struct, frozen=True, tag_field="type", tag="error", omit_defaults=True):
    """`oldest_held` only with the code "from_gone"."""

    code: str
    message: str
    hint: str
    oldest_held: int | None = None


class End(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    status: str
    reason: str


class Grant(msgspec.Struct, frozen=True, tag_field="type", tag="grant"):
    """The viewer is done with every chunk up to `granted_through`."""

    granted_through: int


_encoder = msgspec.json.Encoder()
_grants = msgspec.json.Decoder(Grant)


def encode(event: msgspec.Struct) -> str:
    return _encoder.encode(event).decode()


def read_grant(message: Any) -> Grant:
    """What a viewer sent, an ASGI `websocket.receive`. Raises `ValueError` for nonsense."""
    text = message.get("text")
    if text is None:
        raise ValueError("viewers send text messages only")
    return _grants.decode(text)


def chunk_follows(chunk: Chunk) -> ChunkFollows:
    return ChunkFollows(
        index=chunk.index,
        frames=chunk.frames,
        fps=chunk.fps,
        width=chunk.width,
        height=chunk.height,
        codec=chunk.codec,
        bytes=len(chunk.media),
        inputs_version=chunk.inputs_version,
        inputs=chunk.inputs,
        rung=chunk.rung,
        worker=chunk.worker,
        epoch=chunk.epoch,
        timings=_stages(chunk.timings),
        made_at=chunk.timings.made_at,
    )


def state_of(view: SessionView, next_chunk: int) -> State:
    return State(
        status=view.status,
        phase=view.phase,
        reason=view.reason,
        next_chunk=next_chunk,
        worker=view.worker,
        inputs_version=view.inputs_version,
        inputs=view.inputs,
        warnings=view.warnings,
        position=view.position,
        expected_wait_s=view.expected_wait_s,
        rung=view.rung,
        served_rung=view.served_rung,
        decision=view.decision,
    )


def _stages(timings: ChunkTimings) -> StageSeconds:
    return StageSeconds(timings.due_to_start_s, timings.forward_s, timings.decode_s, timings.encode_s)
