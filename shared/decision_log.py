"""The log of decisions: what placement and autoscaler decided lately, with all that each decision was a
function of, to be explained and decided again.

One JetStream stream a cell, in files, one message a decision, so that it survives whoever decided. Writing is
never waited for: a decision is encoded and sent by a task of its own, and dropped (and counted) where that
can't keep up or NATS is away. Deciding doesn't depend on being recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import AsyncGenerator
from typing import Annotated, NamedTuple

import msgspec
import nats.errors
from msgspec import Meta
from nats.js import JetStreamContext, api
from nats.js.errors import NoStreamResponseError, NotFoundError
from prometheus_client import Counter

from shared import codec
from shared.bus import Bus, BusAway, undecodable_messages
from shared.contracts.decisions import DecisionRecord
from shared.contracts.subjects import DECISION
from shared.ids import InvalidName, decider_of
from shared.jetstream import away, ensure_stream

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Decisions that wait to be sent; a view of 1,024 workers takes a few megabytes."""
MAX_SEARCHED = 1_000
_AT_ONCE = 16
_NAME = "log of decisions"

dropped_decisions = Counter(
    "turboserve_decisions_dropped",
    "Decisions that were taken but not recorded, because NATS was away or slower than they came",
)


class DecisionLogSettings(msgspec.Struct, frozen=True):
    """Bounds of the stream; the first of them that is met drops the oldest. A stream that exists keeps its
    own.
    """

    max_bytes: Annotated[int, Meta(gt=0)] = 128 * 1024 * 1024
    max_age_s: Annotated[float, Meta(gt=0)] = 24 * 3600


_DEFAULTS = DecisionLogSettings()


class Decided(NamedTuple):
    """A decision as its service has it. `id`: from `ids.new_decision_id`. `at`: seconds since the epoch.
    `reason`: in one line. `sessions`, `workers`: whom it concerns. The rest are the policy's own structs,
    which nobody changes any more: they are encoded later, in another thread.
    """

    id: str
    at: float
    policy_name: str
    reason: str
    sessions: list[str]
    workers: list[str]
    policy: msgspec.Struct
    view: msgspec.Struct
    memory: msgspec.Struct | None
    decision: msgspec.Struct


class Recorder:
    """Records what one service decides. `run` is spawned by its process."""

    def __init__(self, bus: Bus, cell: str, service: str, instance: str, timeout_s: float = 2.0) -> None:
        self._bus = bus
        self._cell = cell
        self._service = service
        self._instance = instance
        self._log = DecisionLog(bus, cell, timeout_s=timeout_s)
        self._waiting: asyncio.Queue[Decided] = asyncio.Queue(MAX_WAITING)

    def record(self, decided: Decided) -> None:
        """Never waits, never fails."""
        try:
            self._waiting.put_nowait(decided)
        except asyncio.QueueFull:
            dropped_decisions.inc()

    async def run(self) -> None:
        """For as long as the process runs."""
        while True:
            await self._put(await self._waiting.get())

    async def _put(self, decided: Decided) -> None:
        if not self._bus.connected_s:
            dropped_decisions.inc()
            return
        record = await asyncio.to_thread(make_record, decided, self._service, self._instance)
        try:
            await self._log.put(record)
        except BusAway as error:
            dropped_decisions.inc()
            logger.debug("decision %s is not recorded: %s", decided.id, error)


def make_record(decided: Decided, service: str, instance: str) -> DecisionRecord:
    return DecisionRecord(
        id=decided.id,
        service=service,
        instance=instance,
        at=decided.at,
        policy_name=decided.policy_name,
        reason=decided.reason,
        sessions=decided.sessions,
        workers=decided.workers,
        policy=_pack(decided.policy),
        view=_pack(decided.view),
        memory=_pack(decided.memory),
        decision=_pack(decided.decision),
    )


def _pack(struct: msgspec.Struct | None) -> bytes:
    return zlib.compress(msgspec.json.encode(struct), 1)


def unpack(packed: bytes) -> bytes:
    """The JSON in a field of a record. Raises `zlib.error`."""
    return zlib.decompress(packed)


class DecisionLog:
    """The log of one cell. Everything raises `BusAway`, at the latest after `timeout_s` a message."""

    def __init__(
        self, bus: Bus, cell: str, settings: DecisionLogSettings = _DEFAULTS, timeout_s: float = 2.0
    ) -> None:
        self._cell = cell
        self._settings = settings
        self._timeout_s = timeout_s
        self._stream = f"TS_{cell}_DECISIONS"
        self._js: JetStreamContext = bus.client.jetstream(timeout=timeout_s)

    async def ensure(self) -> None:
        """Create the stream if it is missing."""
        with away(_NAME):
            await ensure_stream(
                self._js,
                self._stream,
                DECISION.pattern(cell=self._cell),
                storage=api.StorageType.FILE,
                max_age=self._settings.max_age_s,
                max_bytes=self._settings.max_bytes,
                allow_direct=True,
                duplicate_window=0,
            )

    async def put(self, record: DecisionRecord) -> None:
        """Whoever puts first makes the stream, so that no service waits for it at its start."""
        address = DECISION.at(cell=self._cell, service=record.service, id=record.id)
        payload = codec.encode(record)
        with away(_NAME):
            try:
                await self._js.publish(address.subject, payload, timeout=self._timeout_s)
            except NoStreamResponseError:
                await self.ensure()
                await self._js.publish(address.subject, payload, timeout=self._timeout_s)

    async def get(self, decision: str) -> DecisionRecord | None:
        """None: there is none of this id, or none any more."""
        try:
            address = DECISION.at(cell=self._cell, service=decider_of(decision), id=decision)
        except InvalidName:
            return None
        raw = await self._get_raw(None, address.subject)
        return None if raw is None else _decoded(raw)

    async def newest(self, limit: int, service: str = "", session: str = "") -> list[DecisionRecord]:
        """The newest `limit`, newest first, of `service` ("": any) and concerning `session` ("": any), among
        the newest `MAX_SEARCHED` of all.
        """
        found: list[DecisionRecord] = []
        async with contextlib.aclosing(self._backwards()) as records:
            async for record in records:
                if service in ("", record.service) and (not session or session in record.sessions):
                    found.append(record)
                if len(found) >= limit:
                    break
        return found

    async def _backwards(self) -> AsyncGenerator[DecisionRecord]:
        last = await self._get_raw(0, DECISION.pattern(cell=self._cell))
        newest = last.seq or 0 if last else 0
        for start in range(newest, max(0, newest - MAX_SEARCHED), -_AT_ONCE):
            sequences = range(start, max(0, start - _AT_ONCE), -1)
            held = await asyncio.gather(*(self._get_raw(sequence, "") for sequence in sequences))
            for record in (_decoded(raw) for raw in held if raw is not None):
                if record is not None:
                    yield record
            if held[-1] is None:  # the oldest are gone
                return

    async def _get_raw(self, sequence: int | None, subject: str) -> api.RawStreamMsg | None:
        """The message with `sequence`, or else the last one on `subject`. With sequence 0 the subject goes
        into the request's body, where it may have wildcards.
        """
        with away(_NAME):
            try:
                return await self._js.get_msg(self._stream, seq=sequence, subject=subject, direct=True)
            except (NotFoundError, nats.errors.NoRespondersError):  # nor is there a stream yet
                return None


def _decoded(raw: api.RawStreamMsg) -> DecisionRecord | None:
    try:
        return codec.decode(DecisionRecord, raw.data or b"")
    except codec.Undecodable:
        undecodable_messages.labels(DECISION.template).inc()
        return None
