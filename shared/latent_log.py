"""The cold tier: what a session's picture can be rebuilt from, on any worker, after its own was lost.

One JetStream stream a cell, in files, one message a *place* of a session's window: the picture's beginning
(sink) keeps its places, the chunks after it overwrite those of a window ago. So a session takes the same room
however long it plays. A worker puts a chunk here once it is in the chunk log; that log stays the truth about
what was made, and losing the newest chunk or two here is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import nats.errors
from nats.errors import NoRespondersError
from nats.js import JetStreamContext, api
from nats.js.errors import NoStreamResponseError, NotFoundError

from shared import codec
from shared.bus import Bus, BusAway, undecodable_messages
from shared.contracts.stream import Latents
from shared.contracts.subjects import LATENTS
from shared.jetstream import away, ensure_stream

MAX_LATENTS_BYTES = 8 * 1024 * 1024
_NAME = "store of latents"


class LatentSettings(NamedTuple):
    """Bounds of the store. Placement removes what ended; these are for what it never hears of again."""

    max_age_s: float = 6 * 3600.0
    max_bytes: int = 512 * 1024 * 1024


_DEFAULTS = LatentSettings()


class Window(NamedTuple):
    """How many chunks a model rebuilds from: `recent` of the newest, `sinks` from the picture's beginning."""

    recent: int
    sinks: int

    @property
    def places(self) -> int:
        return self.recent + self.sinks

    def place(self, index: int, origin: int) -> int:
        """Where chunk `index` of the picture that began with chunk `origin` lies."""
        since = index - origin
        return since if since < self.sinks else self.sinks + (since - self.sinks) % self.recent

    def wanted(self, newest: int, origin: int) -> list[int]:
        """The chunks that a picture is rebuilt from, whose newest is given."""
        first_recent = max(origin, newest - self.recent + 1)
        sinks = range(origin, min(origin + self.sinks, first_recent))
        return [*sinks, *range(first_recent, newest + 1)]


def newest_past(found: Iterable[Latents], window: Window) -> list[Latents]:
    """What to rebuild from, oldest first: all that the newest chunk's picture wants, or nothing if any of it
    is missing or of another kind.
    """
    held = list(found)
    if not held:
        return []
    newest = max(held, key=lambda latents: (latents.index, latents.epoch))
    kind = (newest.origin, newest.shape, newest.dtype)
    by_index = {one.index: one for one in held if (one.origin, one.shape, one.dtype) == kind}
    wanted = window.wanted(newest.index, newest.origin)
    return [by_index[index] for index in wanted] if by_index.keys() >= set(wanted) else []


class LatentsTooLarge(Exception):
    """The store can't take these latents, however often it is tried."""


class LatentLog:
    """The store of one cell. Everything raises `BusAway`, at the latest after `timeout_s`."""

    def __init__(
        self, bus: Bus, cell: str, settings: LatentSettings = _DEFAULTS, timeout_s: float = 2.0
    ) -> None:
        self._cell = cell
        self._settings = settings
        self._timeout_s = timeout_s
        self._stream = f"TS_{cell}_LATENTS"
        self._js: JetStreamContext = bus.client.jetstream(timeout=timeout_s)

    async def ensure(self) -> None:
        """Create the stream if it is missing."""
        with away(_NAME):
            await ensure_stream(
                self._js,
                self._stream,
                LATENTS.pattern(cell=self._cell),
                storage=api.StorageType.FILE,
                max_age=self._settings.max_age_s,
                max_bytes=self._settings.max_bytes,
                max_msgs_per_subject=1,
                max_msg_size=MAX_LATENTS_BYTES,
                allow_direct=True,
                duplicate_window=0,
            )

    async def put(self, tenant: str, latents: Latents, window: Window) -> None:
        """Keep a chunk that is in the chunk log, in place of the one a window ago. Also raises
        `LatentsTooLarge`.
        """
        place = window.place(latents.index, latents.origin)
        await self._put(self._subject(tenant, latents.session, place), codec.encode(latents))

    async def past(self, tenant: str, session: str, window: Window) -> list[Latents]:
        """What a session's picture can be rebuilt from, oldest first; empty if that is not all there."""
        places = range(window.places)
        found = await asyncio.gather(*(self._get(self._subject(tenant, session, p)) for p in places))
        return newest_past((one for one in found if one is not None), window)

    async def renew(self, tenant: str, session: str, origin: int, window: Window) -> None:
        """Write the sink's places once more. Nothing overwrites them, and the stream drops its oldest first:
        without this, a long session would lose the beginning of its picture.
        """
        for place in range(window.sinks):
            subject = self._subject(tenant, session, place)
            latents = await self._get(subject)
            if latents is not None and latents.origin == origin:
                await self._put(subject, codec.encode(latents))

    async def forget(self, tenant: str, session: str) -> None:
        """The session is over."""
        pattern = LATENTS.pattern(cell=self._cell, tenant=tenant, session=session)
        with away(_NAME), contextlib.suppress(NotFoundError):
            await self._js.purge_stream(self._stream, subject=pattern)

    def _subject(self, tenant: str, session: str, place: int) -> str:
        return LATENTS.at(cell=self._cell, tenant=tenant, session=session, place=str(place)).subject

    async def _put(self, subject: str, payload: bytes) -> None:
        with away(_NAME):
            try:
                await self._js.publish(subject, payload, timeout=self._timeout_s)
            except NoStreamResponseError:
                await self.ensure()
                raise BusAway(f"{_NAME}: it was missing and has been created again") from None
            except nats.errors.MaxPayloadError:
                raise LatentsTooLarge(f"{len(payload)} bytes of latents are more than NATS takes") from None

    async def _get(self, subject: str) -> Latents | None:
        with away(_NAME):
            try:
                raw = await self._js.get_msg(self._stream, subject=subject, direct=True)
            except (NotFoundError, NoRespondersError):
                return None
        try:
            return codec.decode(Latents, raw.data or b"")
        except codec.Undecodable:
            undecodable_messages.labels(LATENTS.template).inc()
            return None
