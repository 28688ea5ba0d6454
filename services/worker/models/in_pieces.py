"""Long work that a model does piece by piece, so that whoever drives it can do something else in between."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

R = TypeVar("R")

InPieces = Generator[None, None, R]
"""Each `next` does a piece, or tells the device to; the last one returns what has been made."""


def whole(make: Callable[[], R]) -> InPieces[R]:
    """All of it as one piece."""
    yield from ()
    return make()


def at_once(pieces: InPieces[R]) -> R:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            made: R = end.value
            return made
