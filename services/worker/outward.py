"""Copies from the device to mirrors in host memory: queued here, and told the device a few at a time.

A stream does what it was told in order, so what was told early stands before what is wanted first; and
gigabytes told at once have held up the thread that told them. No torch and no policy; device thread only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

logger = logging.getLogger(__name__)

MOST_BYTES = 128 << 20
"""Told and not over: some 2.5 ms of what a bus carries, longer than it takes until the next `pump`."""

Tell = Callable[[Any, Any, Sequence[Any]], tuple[Any, Any]]
"""(into, source, after): the device copies once these events are over, and after all that was told this way
before. Returns the events of its beginning and its end.
"""


@dataclass(eq=False, slots=True)
class Piece:
    """Bytes of one state on their way to the mirror in `slot`. `after`: events after which they are final.
    `ended`: None until it is told. `dropped`: it never will be.
    """

    slot: int
    into: Any
    source: Any
    after: tuple[Any, ...] = ()
    size_bytes: int = 0
    number: int = 0
    begun: Any = None
    ended: Any = None
    dropped: bool = False

    @property
    def over(self) -> bool:
        """Nothing of it is left to be copied."""
        return self.dropped or (self.ended is not None and bool(self.ended.query()))

    @property
    def ready(self) -> bool:
        self.after = tuple(event for event in self.after if not event.query())
        return not self.after


class Outward:
    """The pieces of one mirror are told in the order in which they came. Those of others don't wait for what
    isn't final yet, and all wait for mirrors that are urgent.
    """

    def __init__(self, tell: Tell, most_bytes: int = MOST_BYTES) -> None:
        self._tell, self._most_bytes = tell, most_bytes
        self._waiting: dict[int, deque[Piece]] = {}
        self._urgent: set[int] = set()
        self._told: deque[Piece] = deque()
        self._last: dict[int, Piece] = {}
        self._failed: set[int] = set()
        self._numbers = count()

    @property
    def waiting(self) -> bool:
        """Whether `pump` has something to tell, now or soon."""
        return bool(self._waiting)

    def waiting_bytes(self, slot: int | None = None) -> int:
        """None: of all."""
        queues = self._waiting.values() if slot is None else [self._waiting.get(slot, ())]
        return sum(piece.size_bytes for queue in queues for piece in queue)

    def put(self, pieces: Sequence[Piece], slot: int, *, urgent: bool = False) -> None:
        """Of one mirror. `urgent`: somebody waits for them, and so for all that it still waits for."""
        for piece in pieces:
            piece.number = next(self._numbers)
            self._waiting.setdefault(slot, deque()).append(piece)
            self._last[slot] = piece
        if urgent and slot in self._waiting:
            self._urgent.add(slot)

    def last(self, slot: int) -> Piece | None:
        """With its end all that was put for this mirror is over. None: it is so now."""
        piece = self._last.get(slot)
        if piece is not None and piece.over:
            del self._last[slot]
            return None
        return piece

    def pump(self) -> None:
        """Tell what may be told now. Never raises: a mirror whose copy fails is dropped, see `failed`."""
        under_way = self._under_way_bytes()
        while under_way < self._most_bytes and (queue := self._next()) is not None:
            under_way += self._try_first(queue, ())

    def flush(self, slot: int) -> None:
        """Tell all of this mirror at once, final or not: the device waits. Never raises, as `pump`."""
        while (queue := self._waiting.get(slot)) is not None:
            self._try_first(queue, queue[0].after)

    def drop(self, slot: int) -> None:
        """What wasn't told of this mirror never will be."""
        for piece in self._waiting.pop(slot, ()):
            piece.dropped, piece.into, piece.source = True, None, None
        self._urgent.discard(slot)
        self._failed.discard(slot)

    def has_failed(self, slot: int) -> bool:
        """Whether `failed` will name it."""
        return slot in self._failed

    def failed(self) -> set[int]:
        """Mirrors dropped since the last call because a copy of theirs failed: they aren't whole."""
        failed, self._failed = self._failed, set()
        return failed

    def _next(self) -> deque[Piece] | None:
        """The queue whose first piece is to be told."""
        queues = sorted(self._waiting.values(), key=lambda q: (q[0].slot not in self._urgent, q[0].number))
        return next((queue for queue in queues if self._is_ready(queue[0])), None)

    def _is_ready(self, piece: Piece) -> bool:
        try:
            return piece.ready
        except Exception as error:  # noqa: BLE001 whatever the device has
            self._fail(piece.slot, error)
            return False

    def _try_first(self, queue: deque[Piece], after: Sequence[Any]) -> int:
        """How many bytes the device was told."""
        piece = queue[0]
        try:
            piece.begun, piece.ended = self._tell(piece.into, piece.source, after)
        except Exception as error:  # noqa: BLE001 whatever the device has
            self._fail(piece.slot, error)
            return 0
        piece.into = piece.source = None
        self._told.append(piece)
        queue.popleft()
        if not queue:
            del self._waiting[piece.slot]
            self._urgent.discard(piece.slot)
        return piece.size_bytes

    def _under_way_bytes(self) -> int:
        """Told and not over. They end in the order in which they were told."""
        while self._told and self._is_over(self._told[0]):
            self._told.popleft()
        return sum(piece.size_bytes for piece in self._told)

    def _is_over(self, piece: Piece) -> bool:
        try:
            return piece.over
        except Exception as error:  # noqa: BLE001 whatever the device has
            piece.dropped = True
            self._fail(piece.slot, error)
            return True

    def _fail(self, slot: int, error: Exception) -> None:
        logger.error("a copy to host memory failed: %s", error, exc_info=error)
        self.drop(slot)
        self._failed.add(slot)
