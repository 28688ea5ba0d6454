"""The JSON bodies of the HTTP calls. What is read forbids unknown fields; what is written may grow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request
from msgspec import Meta

from services.gateway.problems import Problem
from shared.contracts.session import Input, SessionView, Status

Prompt = Annotated[
    str, Meta(description="What the video shows.", examples=["a red circle moves right over a plain"])
]


class OpenBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: Prompt
    model: Annotated[str, Meta(description="Empty: the default model.")] = ""
    seed: Annotated[
        int | None, Meta(description="Empty: a random one. Seed and inputs repeat a session.")
    ] = None
    max_chunks: Annotated[int | None, Meta(description="Close it after so many chunks. Empty: never.")] = None
    rung: Annotated[str, Meta(description="A named quality. Empty: the model's default.")] = ""
    priority: Annotated[
        int,
        Meta(description="From -10 to 10: higher ones are placed before lower ones while not all can be."),
    ] = 0
    cell: Annotated[str, Meta(description="Where it is served. Empty: where there is most room.")] = ""


class SteerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: Prompt


class RungBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rung: Annotated[str, Meta(description="A named quality. Empty: the model's default.", examples=["fast"])]


class SteeredBody(msgspec.Struct, frozen=True):
    """`from_chunk`: the first chunk that shows the new prompt."""

    from_chunk: int
    inputs_version: int
    warnings: list[str]


class SessionBody(msgspec.Struct, frozen=True):
    """A session as its user sees it. `phase` is an open string that says more than `status`; `reason` why it
    is closed, failed or paused. `position`: its place in the queue from 0, null outside of it;
    `expected_wait_s`: until it is placed, null if that isn't known. `served_rung`: the lower quality it is
    served at while demand is high, "": the one it asked for. `decision`: the one that placed, moved, stepped
    or refused it last (`GET /v1/decisions/{id}`), "": none.
    """

    id: str
    status: Status
    phase: str
    reason: str
    model: str
    prompt: str
    inputs: list[Input]
    inputs_version: int
    seed: int
    rung: str
    next_chunk: int
    max_chunks: int | None
    worker: str
    epoch: int
    revision: int
    position: int | None
    warnings: list[str]
    created_at: datetime
    updated_at: datetime
    stream_url: str
    priority: int
    expected_wait_s: float | None
    served_rung: str
    decision: str


class SessionsBody(msgspec.Struct, frozen=True):
    """`cursor` "" means there is no further page."""

    sessions: list[SessionBody]
    cursor: str


class StrictRequest(Request[Any, Any, Any]):
    """Reads a handler's `data` as exactly the declared struct: no "5" for 5, no field nobody knows."""

    async def json(self) -> Any:
        field = self.route_handler.parsed_data_field
        assert field is not None, "only handlers with a declared body read one"
        return decode(await self.body(), field.annotation)


def decode(body: bytes, struct: type[Any]) -> Any:
    """Raises `Problem`: 400 for what is not JSON, 422 naming the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid_field", _named(str(error)), "see /openapi.json") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(
            400, "malformed_json", f"the body is not JSON: {error}", "send one JSON object"
        ) from None


def session_body(view: SessionView, socket_base: str) -> SessionBody:
    """`socket_base`: how callers reach this gateway for WebSockets, "ws://host:port"."""
    return SessionBody(
        id=view.id,
        status=view.status,
        phase=view.phase,
        reason=view.reason,
        model=view.model,
        prompt=view.prompt,
        inputs=view.inputs,
        inputs_version=view.inputs_version,
        seed=view.seed,
        rung=view.rung,
        next_chunk=view.next_chunk,
        max_chunks=view.max_chunks,
        worker=view.worker,
        epoch=view.epoch,
        revision=view.revision,
        position=view.position,
        warnings=view.warnings,
        created_at=datetime.fromtimestamp(view.created_at, UTC),
        updated_at=datetime.fromtimestamp(view.updated_at, UTC),
        stream_url=f"{socket_base}/v1/sessions/{view.id}/stream",
        priority=view.priority,
        expected_wait_s=view.expected_wait_s,
        served_rung=view.served_rung,
        decision=view.decision,
    )


def _named(problem: str) -> str:
    """`prompt: Expected …` from msgspec's `Expected … - at `$.prompt``."""
    what, _, where = problem.partition(" - at `$")
    field = where.strip("`.").lstrip(".")
    return f"{field}: {what}" if field else what
