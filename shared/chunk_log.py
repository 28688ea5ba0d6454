"""The chunk log: the truth about which chunks were made, one JetStream subject per session.

An append carries the stream sequence of the session's chunk before it and succeeds only if that is still the
last one (compare-and-set). So it is at once the commit, the acknowledgement, the fence against a worker that
lost its session, and the buffer from which any gateway serves `from=N`. Readers use direct gets: no consumer,
no subscription and no memory per session or viewer exists on either side.
"""

from __future__ import annotations

import contextlib
import logging
from typing import NamedTuple

import nats.errors
from nats.errors import NoRespondersError
from nats.js import JetStreamContext, api
from nats.js.errors import (
    APIError,
    BadRequestError,
    NoStreamResponseError,
    NotFoundError,
)

from shared import codec
from shared.bus import Bus, BusAway, undecodable_messages
from shared.contracts.stream import Chunk
from shared.contracts.subjects import CHUNKS
from shared.jetstream import away, ensure_stream

logger = logging.getLogger(__name__)

MAX_CHUNK_BYTES = 8 * 1024 * 1024
_WRONG_LAST_SEQUENCE = 10071  # JetStream's error code of a failed compare-and-set
_MESSAGE_TOO_LARGE = 10054
_MAX_REMOVALS = 16


class LogSettings(NamedTuple):
    """Bounds of the log. The oldest chunk goes first when one is reached."""

    max_age_s: float = 900.0
    max_bytes: int = 512 * 1024 * 1024
    max_chunks_per_session: int = 64


_DEFAULTS = LogSettings()


class Entry(NamedTuple):
    """A chunk and its place in the stream, which the next append must name."""

    sequence: int
    chunk: Chunk


class LogConflict(Exception):
    """Another chunk was appended to this session since: the caller doesn't own it (or its answer got lost).
    Read `last`.
    """


class ChunkTooLarge(Exception):
    """The log can't take this chunk, however often it is tried."""


class ChunkLog:
    """Append to and read from the log of one cell."""

    def __init__(
        self,
        bus: Bus,
        cell: str,
        settings: LogSettings = _DEFAULTS,
        timeout_s: float = 2.0,
    ) -> None:
        self._cell = cell
        self._settings = settings
        self._timeout_s = timeout_s
        self._stream = f"TS_{cell}_CHUNKS"
        self._js: JetStreamContext = bus.client.jetstream(timeout=timeout_s)

    async def ensure(self) -> None:
        """Create the stream if it is missing: at start, and again when NATS came back (memory streams end
        with it). Raises `BusAway`.
        """
        with away("chunk log"):
            await ensure_stream(
                self._js,
                self._stream,
                CHUNKS.pattern(cell=self._cell),
                storage=api.StorageType.MEMORY,
                max_age=self._settings.max_age_s,
                max_bytes=self._settings.max_bytes,
                max_msgs_per_subject=self._settings.max_chunks_per_session,
                max_msg_size=MAX_CHUNK_BYTES,
                allow_direct=True,
                duplicate_window=0,
            )

    async def append(self, tenant: str, chunk: Chunk, after: int) -> int:
        """Commit `chunk` as the successor of sequence `after` (0: the session has none in the log). Returns
        its sequence.

        Raises `LogConflict`, `BusAway`, or `ChunkTooLarge`. After `BusAway` it may or may not be in the log:
        read `last`, or append again.
        """
        address = CHUNKS.at(cell=self._cell, tenant=tenant, session=chunk.session)
        payload = codec.encode(chunk)
        name = f"chunk {chunk.index} of {chunk.session}"
        headers = {str(api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): str(after)}
        with away("chunk log"):
            try:
                ack = await self._js.publish(
                    address.subject, payload, timeout=self._timeout_s, headers=headers
                )
            except NoStreamResponseError:
                await self.ensure()
                raise BusAway("the chunk log was missing and has been created again") from None
            except nats.errors.MaxPayloadError:
                raise ChunkTooLarge(f"{name} has {len(payload)} bytes, more than NATS takes") from None
            except APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    raise LogConflict(f"{name} doesn't follow sequence {after}") from None
                if error.err_code == _MESSAGE_TOO_LARGE:
                    raise ChunkTooLarge(f"{name} has {len(payload)} bytes, more than the log takes") from None
                raise
        return ack.seq

    async def last(self, tenant: str, session: str) -> Entry | None:
        """The newest chunk held, None if there is none. Raises `BusAway`, like every reader."""
        return await self._get(tenant, session, None)

    async def next_from(self, tenant: str, session: str, sequence: int) -> Entry | None:
        """The first chunk held at or after stream sequence `sequence` (1: the oldest held), None if there is
        none.
        """
        return await self._get(tenant, session, max(1, sequence))

    async def find(self, tenant: str, session: str, index: int) -> Entry | None:
        """The first chunk held whose index is at least `index`, None if there is none yet.

        A binary search over stream sequences, along which a session's indices rise: about 20 gets in a full
        log.
        """
        newest = await self.last(tenant, session)
        if newest is None or newest.chunk.index < index:
            return None
        found, low, high = newest, 1, newest.sequence
        while low < high:
            middle = (low + high) // 2
            entry = await self.next_from(tenant, session, middle)
            if entry is not None and entry.chunk.index < index:
                low = entry.sequence + 1
            else:
                found, high = entry or found, middle
        return found

    async def _get(self, tenant: str, session: str, sequence: int | None) -> Entry | None:
        """Bytes in a session's log that are no chunk would stop it for ever: they are removed on sight."""
        for _ in range(_MAX_REMOVALS):
            raw = await self._get_raw(tenant, session, sequence)
            if raw is None:
                return None
            try:
                return Entry(raw.seq or 0, codec.decode(Chunk, raw.data or b""))
            except codec.Undecodable as error:
                undecodable_messages.labels(CHUNKS.template).inc()
                logger.warning("removing what is no chunk: %s", error, extra={"session": session})
                await self._remove(raw.seq or 0)
        raise BusAway(f"chunk log: too many messages of {session} are no chunks")

    async def _get_raw(self, tenant: str, session: str, sequence: int | None) -> api.RawStreamMsg | None:
        subject = CHUNKS.at(cell=self._cell, tenant=tenant, session=session).subject
        following = sequence is not None
        with away("chunk log"):
            try:
                return await self._js.get_msg(
                    self._stream, seq=sequence, subject=subject, direct=True, next=following
                )
            except NotFoundError:
                return None
            except NoRespondersError:
                await self.ensure()
                return None

    async def _remove(self, sequence: int) -> None:
        with away("chunk log"), contextlib.suppress(BadRequestError, NotFoundError):  # gone already
            await self._js.delete_msg(self._stream, sequence)

    async def forget(self, tenant: str, session: str) -> None:
        """Remove a session's chunks: it is closed and its viewers had time to read them. Raises `BusAway`."""
        subject = CHUNKS.at(cell=self._cell, tenant=tenant, session=session).subject
        with away("chunk log"), contextlib.suppress(NotFoundError):
            await self._js.purge_stream(self._stream, subject=subject)
