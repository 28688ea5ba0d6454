"""The chunk log: the truth about which chunks were made, one JetStream subject per session.

An append carries the stream sequence of the session's chunk before it and succeeds only if that is still the
last one (compare-and-set). So it is at once the commit, the acknowledgement, the fence against a worker that
lost its session, and the buffer from which any gateway serves `from=N`. Readers use direct gets: no consumer,
no subscription and no memory per session or viewer exists on either side.
"""

from __future__ import annotations

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
from shared.bus import Bus, BusAway
from shared.contracts.stream import Chunk
from shared.contracts.subjects import CHUNKS

MAX_CHUNK_BYTES = 8 * 1024 * 1024
_WRONG_LAST_SEQUENCE = 10071  # JetStream error code of a failed compare-and-set


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
        with it).
        """
        config = api.StreamConfig(
            name=self._stream,
            subjects=[CHUNKS.pattern(cell=self._cell)],
            storage=api.StorageType.MEMORY,
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.OLD,
            max_age=self._settings.max_age_s,
            max_bytes=self._settings.max_bytes,
            max_msgs_per_subject=self._settings.max_chunks_per_session,
            max_msg_size=MAX_CHUNK_BYTES,
            allow_direct=True,
            duplicate_window=0,
        )
        try:
            await self._js.add_stream(config)
        except BadRequestError as error:
            if (
                error.err_code != 10058
            ):  # stream name already in use, with other limits: a running fleet's win
                raise

    async def append(self, tenant: str, chunk: Chunk, after: int) -> int:
        """Commit `chunk` as the successor of sequence `after` (0: the session has none in the log). Returns
        its sequence.

        Raises `LogConflict` or `BusAway`. After `BusAway` it may or may not be in the log: read `last`, or
        append again.
        """
        address = CHUNKS.at(cell=self._cell, tenant=tenant, session=chunk.session)
        headers = {str(api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): str(after)}
        try:
            ack = await self._js.publish(
                address.subject,
                codec.encode(chunk),
                timeout=self._timeout_s,
                headers=headers,
            )
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise LogConflict(
                    f"chunk {chunk.index} of {chunk.session} doesn't follow sequence {after}"
                ) from None
            raise BusAway(f"chunk log: {error.description}") from None
        except NoStreamResponseError:
            await self._recreate()
            raise BusAway("the chunk log was missing and has been created again") from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusAway(f"chunk log: {error or type(error).__name__}") from None
        return ack.seq

    async def _recreate(self) -> None:
        try:
            await self.ensure()
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusAway(f"chunk log: {error or type(error).__name__}") from None

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
        subject = CHUNKS.at(cell=self._cell, tenant=tenant, session=session).subject
        try:
            raw = await self._js.get_msg(
                self._stream,
                seq=sequence,
                subject=subject,
                direct=True,
                next=sequence is not None,
            )
        except NotFoundError:
            return None
        except NoRespondersError:
            await self._recreate()
            return None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusAway(f"chunk log: {error or type(error).__name__}") from None
        return Entry(raw.seq or 0, codec.decode(Chunk, raw.data or b""))

    async def forget(self, tenant: str, session: str) -> None:
        """Remove a session's chunks: it is closed and its viewers had time to read them. Raises `BusAway`."""
        subject = CHUNKS.at(cell=self._cell, tenant=tenant, session=session).subject
        try:
            await self._js.purge_stream(self._stream, subject=subject)
        except NotFoundError:
            return
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusAway(f"chunk log: {error or type(error).__name__}") from None
