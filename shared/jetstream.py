"""What goes wrong with JetStream, in one word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import nats.errors
from nats.js.errors import APIError

from shared.bus import BusAway
from shared.cancellation import heeding_cancellation

STREAM_HAS_OTHER_LIMITS = 10058  # JetStream's error code


@contextlib.contextmanager
def away(what: str) -> Iterator[None]:
    """Whatever JetStream or the connection says inside, beyond what was caught there, is a `BusAway` that
    names `what`.
    """
    try:
        with heeding_cancellation():
            yield
    except (nats.errors.Error, TimeoutError, OSError) as error:
        reason = (error.description if isinstance(error, APIError) else str(error)) or type(error).__name__
        raise BusAway(f"{what}: {reason}") from None
