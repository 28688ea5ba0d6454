"""What all logs kept in JetStream share: how their streams are made, and what goes wrong in one word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import nats.errors
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, BadRequestError

from shared.bus import BusAway
from shared.cancellation import heeding_cancellation

_STREAM_HAS_OTHER_LIMITS = 10058  # JetStream's error code


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


async def ensure_stream(js: JetStreamContext, name: str, subject: str, **limits: Any) -> None:
    """Create a stream that forgets its oldest messages, if it is missing. `limits`: as in `StreamConfig`;
    those of a stream that is there already win. Raises what nats-py raises.
    """
    config = api.StreamConfig(
        name=name,
        subjects=[subject],
        retention=api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.OLD,
        **limits,
    )
    try:
        await js.add_stream(config)
    except BadRequestError as error:
        if error.err_code != _STREAM_HAS_OTHER_LIMITS:
            raise
