"""The HTTP calls by which those who run the fleet handle one session: move, suspend and restore it.

Unlike a user's pause and resume, which answer at once, these answer when it is done, phase by phase.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, post
from litestar.openapi.spec import Example
from litestar.params import Body

from services.gateway.gateway import Gateway
from services.gateway.operation_bodies import AWAY, MoveBody, MovedBody, StowedBody, error
from shared.contracts.moves import SessionStowed

_MOVE_EXAMPLES = Body(
    examples=[
        Example(summary="To this worker", value={"to": "worker-2"}),
        Example(summary="To the one with most room", value={}),
    ]
)
_UNKNOWN = error(
    "session_not_found", "there is no session 'nope'", "GET /v1/sessions lists them", "No such session."
)
_ENDED = error("session_ended", "the session is closed", "open another", "The session has ended.")
_AWAY = error(*AWAY, "Placement, NATS or the worker is away, or busy.")


@post(
    "/{session_id:str}/move",
    status_code=200,
    response_description="What came of it; a move that was begun and given up is `stayed`, with the reason.",
    operation_id="moveSession",
    summary="Have another worker go on with a session, without a gap or a repeat for its viewers",
    responses={
        400: error(
            "malformed_json", "the body is not JSON: …", "send one JSON object", "The body is not JSON."
        ),
        404: error(
            "worker_not_found", "there is no worker 'w-9'", "workers: w-1, w-2", "No such session or worker."
        ),
        409: error(
            "incompatible",
            "worker-2 has other weights than worker-1, so that it can't go on with the session's state",
            "name a worker that serves the same model",
            "It can't be moved there as things are: `already_there`, `busy_moving`, `incompatible`,"
            " `no_slot`, `not_owned`, `session_ended`, `worker_not_ready`.",
        ),
        422: error("invalid_field", "Expected `str`, got `int` - at `$.to`", "", "`to` is no text."),
        503: _AWAY,
    },
)
async def move_session(
    session_id: str,
    gateway: Gateway,
    data: Annotated[MoveBody | None, _MOVE_EXAMPLES] = None,
) -> MovedBody:
    """May take some seconds. Without a body the session goes to the worker with most room."""
    moved = await gateway.cells.of(session_id).placement.move(session_id, data.to if data else "")
    return msgspec.convert(msgspec.to_builtins(moved), MovedBody)


@post(
    "/{session_id:str}/suspend",
    status_code=200,
    response_description="Suspended; its slot on the device is free.",
    operation_id="suspendSession",
    summary="Pause a session and take its state out of the device's memory",
    responses={404: _UNKNOWN, 409: _ENDED, 503: _AWAY},
)
async def suspend_session(session_id: str, gateway: Gateway) -> StowedBody:
    """It stays so until it is restored, or resumed by its user."""
    return _stowed(await gateway.cells.of(session_id).placement.suspend(session_id))


@post(
    "/{session_id:str}/restore",
    status_code=200,
    response_description="Its state is back, or (`status` queued) it waits for a worker with room.",
    operation_id="restoreSession",
    summary="Bring a suspended session's state back into the device's memory, and let it go on",
    responses={404: _UNKNOWN, 409: _ENDED, 503: _AWAY},
)
async def restore_session(session_id: str, gateway: Gateway) -> StowedBody:
    return _stowed(await gateway.cells.of(session_id).placement.restore(session_id))


def _stowed(stowed: SessionStowed) -> StowedBody:
    return msgspec.convert(msgspec.to_builtins(stowed), StowedBody)


def router() -> Router:
    handlers = [move_session, suspend_session, restore_session]
    return Router("/v1/sessions", route_handlers=handlers, tags=["operations"])
