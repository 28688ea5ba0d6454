"""Whatever goes wrong, said one way: `{"error": {"code", "message", "hint"}}` with the right status."""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException

from shared.bus import BusAway, NoAnswer, Refused

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1

_STATUS_OF_REFUSAL = {
    "idempotency_conflict": 409,
    "session_ended": 409,
    "session_not_found": 404,
    "worker_not_found": 404,
    "only_worker": 409,
    "incompatible": 409,
    "no_slot": 409,
    "busy_moving": 409,
    "not_owned": 409,
    "already_there": 409,
    "worker_not_ready": 409,
    "worker_silent": 503,
    "busy": 503,
    "no_capacity": 503,
    "store_unavailable": 503,
    "too_many_sessions": 429,
    "internal": 500,
    "undecodable": 500,
}
_REFUSED_BY_DEFAULT = 422  # a refusal nobody named here is about what the caller asked for
_WORDS_OF_STATUS = {
    404: ("not_found", "there is nothing at this path", "/openapi.json lists what there is"),
    405: (
        "method_not_allowed",
        "this path doesn't take this method",
        "the Allow header names those it takes",
    ),
    413: ("body_too_large", "the body is too large", "a body may have 64 KiB"),
}


class ErrorDetail(msgspec.Struct, frozen=True):
    """`code` for programs, `message` what was wrong, `hint` what to do about it."""

    code: str
    message: str
    hint: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class Problem(Exception):
    """An answer that is an error. `retry_after_s`: told with 429 and 503, in whole seconds."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", retry_after_s: float = RETRY_AFTER_S
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(code, message, hint)
        self.retry_after_s = max(1, math.ceil(retry_after_s))


def session_not_found(session: str) -> Problem:
    return Problem(
        404, "session_not_found", f"there is no session {session[:60]!r}", "GET /v1/sessions lists them"
    )


def autoscaler_away(hint: str) -> Problem:
    return Problem(503, "autoscaler_away", "the autoscaler doesn't answer", hint)


def problem_of(error: Exception) -> Problem:
    """What a caller is told of `error`. Unexpected ones are logged here and told without details."""
    match error:
        case Problem():
            return error
        case Refused():
            refusal = error.refusal
            status = _STATUS_OF_REFUSAL.get(refusal.code, _REFUSED_BY_DEFAULT)
            later_s = RETRY_AFTER_S if refusal.retry_after_s is None else refusal.retry_after_s
            return Problem(status, refusal.code, refusal.message, refusal.hint, later_s)
        case NoAnswer():
            return _away("placement_away", "the placement service doesn't answer")
        case BusAway():
            return _away("service_away", "NATS, through which the services talk, is away")
        case ValidationException() if _lacks_body(error):
            return Problem(400, "malformed_json", "the request has no body", "send one JSON object")
        case ValidationException():
            return Problem(422, "invalid_field", _fields_of(error), "see /openapi.json")
        case HTTPException():
            return _of_status(error)
    logger.error("a request failed", exc_info=error)
    return Problem(500, "internal", "the gateway failed on this request", "its log says more")


def answer(_: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Litestar's exception handler for everything."""
    problem = problem_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if problem.status in {429, 503}:
        headers["Retry-After"] = str(problem.retry_after_s)
    return Response(
        ErrorBody(problem.detail), status_code=problem.status, headers=headers, media_type=MediaType.JSON
    )


def _away(code: str, message: str) -> Problem:
    hint = "try again in a moment; a POST /v1/sessions with an Idempotency-Key can be repeated safely"
    return Problem(503, code, message, hint)


def _of_status(error: HTTPException) -> Problem:
    status = error.status_code
    if status >= 500:
        logger.error("a request failed", exc_info=error)
    code = "bad_request" if status < 500 else "internal"
    return Problem(status, *_WORDS_OF_STATUS.get(status, (code, error.detail, "see /openapi.json")))


def _problems_of(error: ValidationException) -> list[dict[str, str]]:
    return error.extra if isinstance(error.extra, list) else []


def _lacks_body(error: ValidationException) -> bool:
    return any(problem.get("key") == "data" for problem in _problems_of(error))


def _fields_of(error: ValidationException) -> str:
    named = [f"{p.get('key', 'request')}: {p.get('message', '')}" for p in _problems_of(error)]
    return "; ".join(named) or error.detail
