"""MessagePack between the services, by msgspec. The only place that turns a struct into bytes or back."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()


class Undecodable(ValueError):
    """Bytes that are not the struct a subject promises. Carries what was expected and why it failed."""


@cache
def _decoder(struct: type[T]) -> msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(struct)


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def decode(struct: type[T], payload: bytes) -> T:
    """Raises `Undecodable`. Unknown fields are skipped, so that a newer writer can add one."""
    try:
        message: T = _decoder(struct).decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(f"{len(payload)} bytes are not a {struct.__name__}: {error}") from None
    return message
