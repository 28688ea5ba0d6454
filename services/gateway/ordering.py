"""Which chunk does a viewer get next? Once each, in order, none beyond its credit, none left out unless cut.

A viewer's `Cursor` is told what the log holds and what the viewer granted, and answers with the next step. It
knows neither sockets nor the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shared.contracts.session import CREDIT_WINDOW


class Send(NamedTuple):
    """Read that chunk and send it."""

    chunk: int


class AwaitChunk(NamedTuple):
    """The viewer has everything there is: that chunk is the next to be made."""

    chunk: int


class AwaitCredit(NamedTuple):
    """That chunk is there, but the viewer must first grant more."""

    chunk: int


class Cut(NamedTuple):
    """Chunks [start, to) are gone before the viewer took them; it goes on at `to`."""

    start: int
    to: int


Step = Send | AwaitChunk | AwaitCredit


class FromOutOfRange(Exception):
    """`from` lies behind the next chunk to be made, or before the first."""

    def __init__(self, asked: int, next_index: int) -> None:
        super().__init__(f"from={asked} is out of range: chunks up to {next_index} can be asked for")


class FromGone(Exception):
    """`from` is no longer held."""

    def __init__(self, asked: int, oldest_held: int) -> None:
        super().__init__(f"chunk {asked} is no longer held; the oldest held is {oldest_held}")
        self.oldest_held = oldest_held


class Cursor:
    """One viewer's place in a session. `auto`: each chunk counts as granted once handed to the viewer."""

    def __init__(self, first: int, *, auto: bool = False) -> None:
        self.next_index = first
        self.granted_through = first - 1
        self._auto = auto

    def step(self, next_made: int) -> Step:
        """What to do now, if `next_made` is the first index not in the log yet."""
        if self.next_index >= next_made:
            return AwaitChunk(self.next_index)
        if self.next_index > self.granted_through + CREDIT_WINDOW:
            return AwaitCredit(self.next_index)
        return Send(self.next_index)

    def sending(self) -> None:
        """The chunk that `step` named is about to be sent: the viewer may grant it from now on."""
        self.next_index += 1

    def sent(self) -> None:
        """It was handed to the viewer."""
        if self._auto:
            self.granted_through = self.next_index - 1

    def grant(self, through: int) -> bool:
        """The viewer is done with every chunk up to `through`. False: it can't be, that one was not sent."""
        if through >= self.next_index:
            return False
        self.granted_through = max(self.granted_through, through)
        return True

    def cut(self, to: int) -> Cut:
        """The wanted chunk is gone: go on at `to`, the viewer being done with what it can't get any more."""
        cut = Cut(self.next_index, to)
        self.next_index = to
        self.granted_through = to - 1
        return cut


def join(asked: int | None, oldest_held: int, next_made: int, *, auto: bool = False) -> Cursor:
    """Where a new viewer begins. `asked` None: the live edge. Raises `FromOutOfRange` or `FromGone`.

    `oldest_held` is `next_made` if the log holds nothing.
    """
    if asked is None:
        return Cursor(next_made, auto=auto)
    if not 0 <= asked <= next_made:
        raise FromOutOfRange(asked, next_made)
    if asked < oldest_held:
        raise FromGone(asked, oldest_held)
    return Cursor(asked, auto=auto)


def resume_at(wanted: int, found: int | None, next_made: int, *, ended: bool) -> int:
    """Where to go on when the first chunk the log holds from `wanted` on is `found` (None: it holds none).

    `wanted` itself if it is held. Otherwise the live edge; of an ended session, what is left.
    """
    if found == wanted:
        return wanted
    if ended and found is not None:
        return found
    return max(next_made, found or 0)


def furthest(cursors: Iterable[Cursor], at_least: int) -> int:
    """The credit of all viewers together: the furthest `granted_through`, never less than was told before."""
    return max(at_least, *(cursor.granted_through for cursor in cursors), -1)
