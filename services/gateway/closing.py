"""How a stream ends: perhaps a last event, then a close code."""

from __future__ import annotations

from typing import NamedTuple

from services.gateway import events
from services.gateway.problems import Problem

NORMAL = 1000
BROKEN = 1011
COME_BACK = 1013
BAD_REQUEST = 4400
UNKNOWN_SESSION = 4404
GONE = 4410

_CODE_OF_STATUS = {404: UNKNOWN_SESSION, 422: BAD_REQUEST, 503: COME_BACK}


class Closing(NamedTuple):
    """`reason` is the close frame's text; the event says it in full."""

    code: int
    reason: str
    event: events.ErrorEvent | events.End | None = None


def failed(code: int, name: str, message: str, hint: str, oldest_held: int | None = None) -> Closing:
    return Closing(code, name, events.ErrorEvent(name, message, hint, oldest_held))


def failed_by(problem: Problem) -> Closing:
    detail = problem.detail
    return failed(_CODE_OF_STATUS.get(problem.status, BROKEN), detail.code, detail.message, detail.hint)
