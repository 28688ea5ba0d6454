"""The end of one session's log as a gateway follows it: the newest chunks in hand, older ones by reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shared.bus import Bus, BusAway
from shared.chunk_log import ChunkLog, Entry
from shared.contracts.session import SessionView
from shared.contracts.stream import ChunkReady

HELD_CHUNKS = 3  # the window of two, and the one being written


class LogTail:
    """`next_index`: the first one not seen in the log yet; it never falls, even if the log is lost. What
    reads raises `BusAway`. `on_new` is called with every chunk seen first, before anything else is read.
    """

    def __init__(self, bus: Bus, log: ChunkLog, view: SessionView, on_new: Callable[[], None]) -> None:
        self.next_index = 0
        self._bus = bus
        self._log = log
        self._on_new = on_new
        self._of = (view.tenant, view.id)
        self._held: deque[Entry] = deque(maxlen=HELD_CHUNKS)
        self._sequence = 0
        self._lost_place = False

    async def start(self, at_least: int) -> None:
        """Begin at the log's end. `at_least`: what the session's row says is next, if the log was lost."""
        self.require_nats()
        newest = await self._log.last(*self._of)
        if newest is not None:
            self._take(newest)
        self.next_index = max(self.next_index, at_least)

    async def advance(self) -> None:
        """Read on to the end of the log."""
        self.require_nats()
        if self._lost_place:
            entry = await self._log.find(*self._of, self.next_index)
            self._lost_place = False
            self._sequence = 0 if entry is None else self._sequence
        else:
            entry = await self._log.next_from(*self._of, self._sequence + 1)
        while entry is not None:
            self._take(entry)
            entry = await self._log.next_from(*self._of, entry.sequence + 1)

    async def oldest_held(self) -> int:
        """The oldest index the log holds, `next_index` if it holds none."""
        oldest = await self._log.next_from(*self._of, 1)
        return self.next_index if oldest is None else oldest.chunk.index

    async def read(self, index: int, after: int) -> Entry | None:
        """The first chunk held from `index` on, None if there is none.

        `after`: the stream sequence of the one before it, which saves the search; 0: not known.
        """
        for held in self._held:
            if held.chunk.index == index:
                return held
        self.require_nats()
        following = await self._log.next_from(*self._of, after + 1) if after else None
        if following is not None and following.chunk.index == index:
            return following
        return await self._log.find(*self._of, index)

    def is_news(self, ready: ChunkReady) -> bool:
        """Whether it is worth looking for this chunk. Notices when the stream was made anew."""
        if ready.index < self.next_index:
            return False
        self._lost_place |= ready.sequence <= self._sequence
        return True

    def lose_place(self) -> None:
        """Perhaps it is another log: look for the place by index."""
        self._lost_place = True

    def require_nats(self) -> None:
        """Don't wait for a deadline where the answer is known."""
        if not self._bus.connected_s:
            raise BusAway(f"NATS at {self._bus.url} is away")

    def _take(self, entry: Entry) -> None:
        self._sequence = entry.sequence
        if entry.chunk.index >= self.next_index:
            self.next_index = entry.chunk.index + 1
            self._held.append(entry)
            self._on_new()
