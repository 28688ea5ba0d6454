"""What can go wrong for a client, as one exception type with a code for programs and words for people."""

from __future__ import annotations


class TurboserveError(Exception):
    """`code`: for programs. `message`: what was wrong. `hint`: what to do about it ("": nothing known).
    `retry_after_s`: when to try again, as the server says (None: it doesn't).
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s: float | None = None


class Unreachable(TurboserveError):
    """No gateway answers at the URL, or the one there can't serve now, after all tries."""


class NoCapacity(TurboserveError):
    """The session was not taken, because no worker would have room for it in time: see `retry_after_s`."""


class UnknownSession(TurboserveError):
    """There is no such session."""


class UnknownWorker(TurboserveError):
    """There is no such worker."""


class UnknownDecision(TurboserveError):
    """There is no such decision, or none any more."""


class InvalidRequest(TurboserveError):
    """A field is wrong: an empty prompt, an unknown model, `from` out of range."""


class NotPossible(TurboserveError):
    """It can't be done as things are: no slot is free, the models differ, another move is under way."""


class SessionEnded(TurboserveError):
    """The session is closed or failed: it can't be steered, paused or watched any further."""


class ChunksGone(TurboserveError):
    """The chunk asked for is no longer held. `oldest_held`: the oldest that is (None: not told)."""

    def __init__(self, code: str, message: str, hint: str = "", oldest_held: int | None = None) -> None:
        super().__init__(code, message, hint)
        self.oldest_held = oldest_held


_KINDS: dict[str, type[TurboserveError]] = {
    "worker_not_found": UnknownWorker,
    "decision_not_found": UnknownDecision,
    "session_ended": SessionEnded,
    "no_capacity": NoCapacity,
}
"""Codes that say more than their status."""

_OF_STATUS: dict[int, type[TurboserveError]] = {
    400: InvalidRequest,
    404: UnknownSession,
    409: NotPossible,
    413: InvalidRequest,
    422: InvalidRequest,
    502: Unreachable,
    503: Unreachable,
    504: Unreachable,
}


def of_status(status: int, code: str, message: str, hint: str = "") -> TurboserveError:
    """The exception for an HTTP status and the error body that came with it."""
    kind = _KINDS.get(code) or _OF_STATUS.get(status, TurboserveError)
    return kind(code, message, hint)
