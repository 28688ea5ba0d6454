"""The HTTP calls that open, show, steer and close sessions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, Parameter

from services.gateway import admission
from services.gateway.bodies import (
    OpenBody,
    RungBody,
    SessionBody,
    SessionsBody,
    SteerBody,
    SteeredBody,
    session_body,
)
from services.gateway.gateway import Gateway, socket_base
from services.gateway.problems import ErrorBody, ErrorDetail, Problem
from shared.contracts.session import Input, ListSessions, OpenSession

MAX_PAGE = 200
MAX_CURSOR_CHARS = 200

Caller = Request[Any, Any, Any]


_EXAMPLES = {
    400: ErrorDetail(
        "malformed_json", "the body is not JSON: Input data was truncated", "send one JSON object"
    ),
    404: ErrorDetail("session_not_found", "there is no session 'nope'", "GET /v1/sessions lists them"),
    409: ErrorDetail("session_ended", "the session is closed", "open another"),
    413: ErrorDetail("body_too_large", "the body is too large", "a body may have 64 KiB"),
    422: ErrorDetail("prompt_empty", "prompt: it is empty", "say what the video should show"),
    429: ErrorDetail("too_many_sessions", "no further session is queued", "try again later"),
    503: ErrorDetail("placement_away", "the placement service doesn't answer", "try again in a moment"),
}


def _errors(**described: str) -> dict[int, ResponseSpec]:
    """Error answers for the OpenAPI document: `e404="unknown session"`."""
    answers = {"e400": "The request is malformed."} | described
    answers.setdefault("e503", "Placement or NATS is away: see Retry-After.")
    return {int(name[1:]): _error(int(name[1:]), text) for name, text in answers.items()}


def _error(status: int, description: str) -> ResponseSpec:
    example = Example(value=msgspec.to_builtins(ErrorBody(_EXAMPLES[status])))
    return ResponseSpec(ErrorBody, generate_examples=False, description=description, examples=[example])


_OPEN_EXAMPLES = Body(
    examples=[
        Example(summary="The least", value={"prompt": "a red circle moves right"}),
        Example(
            summary="Repeatable, and of a known length",
            value={"prompt": "a blue square orbits over stars", "seed": 7, "max_chunks": 20},
        ),
    ]
)
_STEER_EXAMPLES = Body(examples=[Example(value={"prompt": "a green circle moves left"})])
_RUNG_EXAMPLES = Body(examples=[Example(value={"rung": "fast"})])
_BODY = {"e400": "The body is not JSON.", "e413": "The body is too large."}
_KNOWN = {"e404": "There is no such session."}
_RUNNING = _KNOWN | {"e409": "The session has ended."}


@post(
    "/",
    response_description="Opened (or, with a known Idempotency-Key, what was opened then).",
    operation_id="openSession",
    summary="Open a session: its video is made while viewers watch it",
    responses=_errors(
        **_BODY,
        e409="The Idempotency-Key was used with another body.",
        e422="A field is wrong; the message names it.",
        e429="Too many sessions.",
        e503="No worker would have room for it in time (`no_capacity`), or placement or NATS is away: see"
        " Retry-After.",
    ),
)
async def open_session(
    request: Caller,
    data: Annotated[OpenBody, _OPEN_EXAMPLES],
    gateway: Gateway,
    idempotency_key: Annotated[
        str | None,
        Parameter(
            header="Idempotency-Key",
            description="Repeating a call with the same key opens no second session.",
        ),
    ] = None,
) -> SessionBody:
    """The answer's `stream_url` is the WebSocket to watch it at."""
    cell = gateway.cells.for_opening(data.cell, data.model, idempotency_key or "")
    try:
        prompt = admission.check_opening(
            cell.fleet.rules(),
            data.prompt,
            data.model,
            data.rung,
            data.seed,
            data.max_chunks,
            data.priority,
        )
        key = "" if idempotency_key is None else admission.check_idempotency_key(idempotency_key)
    except admission.Denied as denied:
        raise _problem(denied) from None
    opening = OpenSession(
        inputs=[Input("prompt", prompt)],
        model=data.model,
        seed=data.seed,
        max_chunks=data.max_chunks,
        rung=data.rung,
        idempotency_key=key,
        priority=data.priority,
    )
    return session_body(await cell.placement.open(opening), socket_base(request))


@get(
    "/",
    response_description="One page.",
    operation_id="listSessions",
    summary="List sessions, newest first",
    responses=_errors(e422="A parameter is wrong; the message names it."),
)
async def list_sessions(
    request: Caller,
    gateway: Gateway,
    limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[
        str, Parameter(max_length=MAX_CURSOR_CHARS, description="That of the page before.")
    ] = "",
    live: Annotated[bool, Parameter(description="Leave out sessions that have ended.")] = False,
) -> SessionsBody:
    page = await gateway.cells.page(ListSessions(limit, cursor, live))
    base = socket_base(request)
    return SessionsBody([session_body(view, base) for view in page.sessions], page.cursor)


@get(
    "/{session_id:str}",
    response_description="The session as it is now.",
    operation_id="getSession",
    summary="One session",
    responses=_errors(**_KNOWN),
)
async def get_session(request: Caller, session_id: str, gateway: Gateway) -> SessionBody:
    return session_body(await gateway.cells.of(session_id).placement.get(session_id), socket_base(request))


@post(
    "/{session_id:str}/prompt",
    status_code=202,
    response_description="Accepted; `from_chunk` is the first chunk that shows it, as the worker says.",
    operation_id="steerSession",
    summary="Change the prompt while it plays; newest wins",
    responses=_errors(**_BODY, **_RUNNING, e422="The prompt is wrong."),
)
async def steer_session(
    session_id: str, data: Annotated[SteerBody, _STEER_EXAMPLES], gateway: Gateway
) -> SteeredBody:
    cell = gateway.cells.of(session_id)
    try:
        prompt = admission.check_prompt(cell.fleet.rules(), data.prompt)
    except admission.Denied as denied:
        raise _problem(denied) from None
    steered = await cell.placement.steer(session_id, [Input("prompt", prompt)])
    return SteeredBody(steered.from_chunk, steered.inputs_version, steered.warnings)


@post(
    "/{session_id:str}/pause",
    status_code=202,
    response_description="Accepted.",
    operation_id="pauseSession",
    summary="Pause: no further chunk is begun",
    responses=_errors(**_RUNNING),
)
async def pause_session(request: Caller, session_id: str, gateway: Gateway) -> SessionBody:
    return session_body(await gateway.cells.of(session_id).placement.pause(session_id), socket_base(request))


@post(
    "/{session_id:str}/resume",
    status_code=202,
    response_description="Accepted.",
    operation_id="resumeSession",
    summary="Go on where it paused",
    responses=_errors(**_RUNNING),
)
async def resume_session(request: Caller, session_id: str, gateway: Gateway) -> SessionBody:
    return session_body(await gateway.cells.of(session_id).placement.resume(session_id), socket_base(request))


@post(
    "/{session_id:str}/rung",
    status_code=202,
    response_description="Accepted; the next chunk that has not started is made at this rung.",
    operation_id="setRung",
    summary="Change the quality while it plays",
    responses=_errors(**_BODY, **_RUNNING, e422="The model has no such rung; the hint names those it has."),
)
async def set_rung(
    request: Caller, session_id: str, data: Annotated[RungBody, _RUNG_EXAMPLES], gateway: Gateway
) -> SessionBody:
    """Every `chunk` message says which rung made it."""
    cell = gateway.cells.of(session_id)
    try:
        admission.check_rung(cell.fleet.rules(), data.rung)
    except admission.Denied as denied:
        raise _problem(denied) from None
    return session_body(await cell.placement.set_rung(session_id, data.rung), socket_base(request))


@delete(
    "/{session_id:str}",
    response_description="Closed.",
    operation_id="closeSession",
    summary="Close a session; closing it again is fine",
    responses=_errors(**_KNOWN),
)
async def close_session(session_id: str, gateway: Gateway) -> Response[None]:
    await gateway.cells.of(session_id).placement.close(session_id)
    return Response(None, status_code=204)


def _problem(denied: admission.Denied) -> Problem:
    return Problem(422, denied.code, str(denied), denied.hint)


def router() -> Router:
    handlers = [
        open_session,
        list_sessions,
        get_session,
        steer_session,
        pause_session,
        resume_session,
        set_rung,
        close_session,
    ]
    return Router("/v1/sessions", route_handlers=handlers, tags=["sessions"])
