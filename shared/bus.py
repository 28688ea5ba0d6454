"""NATS as the services use it: typed publish, subscribe, request and serve, and nothing else.

What differs from the bare client: a message is a struct, encoded and decoded here; undecodable bytes are
counted, logged and answered, never raised into a handler; core messages published while disconnected are
dropped instead of arriving late (every one of them is repeated by its sender); every request has a deadline;
handlers of requests run as tasks with a bound; a request's trace context travels in its headers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from shared import codec, telemetry
from shared.cancellation import heeding_cancellation
from shared.contracts.session import Refusal
from shared.contracts.subjects import Address, Request, RequestAddress, Subject
from shared.ids import InvalidName

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

ERROR_HEADER = "Ts-Error"
MAX_REQUESTS_IN_FLIGHT = 512
BUSY = Refusal("busy", "too many requests at once", "try again in a moment")
INTERNAL = Refusal("internal", "the service failed on this request", "its log says more")
_RECONNECT_WAIT_S = 0.25
_PING_EVERY_S = 1  # a server that freezes is away after three unanswered: sooner than a worker is dead

undecodable_messages = Counter(
    "turboserve_bus_undecodable",
    "Messages whose bytes were not the subject's struct",
    ["subject"],
)
dropped_messages = Counter(
    "turboserve_bus_dropped",
    "Messages not published because NATS was away",
    ["subject"],
)


class BusAway(Exception):
    """NATS can't be reached. The message says where it was looked for."""


class NoAnswer(Exception):
    """Nobody serves the subject, or no answer came before the deadline."""


class Refused(Exception):
    """The other side refused a request, or a handler refuses one by raising this. `retry_after_s`: as
    `Refusal` has it.
    """

    def __init__(self, code: str, message: str, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message, hint, retry_after_s)


class Meta:
    """What came with a message: the tokens of its subject, and the trace it belongs to."""

    __slots__ = ("context", "tokens")

    def __init__(self, tokens: Mapping[str, str], context: Context) -> None:
        self.tokens = tokens
        self.context = context


class Bus:
    """One connection of one process. `connect` first, `close` last."""

    def __init__(self, url: str, name: str, role: str = "client") -> None:
        """`name` shows in the broker's list of connections; answers come to `_INBOX.<role>.…`, so that a
        broker can let each service hear its own answers only. `url` may carry `user:password@`.
        """
        self.url = _without_password(url)
        self._address = url
        self._name = name
        self._role = role
        self._client = Client()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._connected_since: float | None = None
        self._on_reconnect: list[Callable[[], None]] = []
        self._last_error = ""
        self._closing = False
        self._ended = asyncio.Event()

    @property
    def client(self) -> Client:
        """For JetStream: the chunk log, and placement's outbox."""
        return self._client

    @property
    def subscriptions(self) -> int:
        """How many subscriptions this process holds, the client's own reply inbox included."""
        return len(self._client._subs)  # noqa: SLF001

    @property
    def connected_s(self) -> float:
        """How long the connection has stood, 0 while it is down. Who has just lost or regained NATS declares
        nobody dead.
        """
        if self._connected_since is None or not self._client.is_connected:
            return 0.0
        return time.monotonic() - self._connected_since

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._on_reconnect.append(callback)

    async def connect(self, wait_s: float) -> None:
        """Raises `BusAway` if NATS doesn't answer within `wait_s`. Afterwards the client reconnects by
        itself, for ever, unless the server ends the connection (`until_ended`).
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._connect()
        except (TimeoutError, nats.errors.Error, OSError) as error:
            reason = self._last_error or str(error) or type(error).__name__
            raise BusAway(
                f"no NATS server answered at {self.url} within {wait_s:g} s ({reason}); "
                "start one or set TURBOSERVE_NATS_URL"
            ) from None
        self._connected_since = time.monotonic()

    async def _connect(self) -> None:
        await self._client.connect(
            self._address,
            name=self._name,
            inbox_prefix=f"_INBOX.{self._role}".encode(),
            connect_timeout=2,
            reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]  # any float works
            max_reconnect_attempts=-1,
            ping_interval=_PING_EVERY_S,
            max_outstanding_pings=2,
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
        )

    async def _error(self, error: Exception) -> None:
        """Tries to reconnect come four times a second: the same error is said once."""
        text = str(error) or type(error).__name__
        level = logging.DEBUG if text == self._last_error else logging.WARNING
        self._last_error = text
        logger.log(level, "nats: %s", text, extra={"url": self.url})

    async def _disconnected(self) -> None:
        if not self._client.is_closed:
            logger.warning("lost NATS, reconnecting", extra={"url": self.url})
        self._connected_since = None

    async def _reconnected(self) -> None:
        self._last_error = ""
        self._connected_since = time.monotonic()
        logger.info("reconnected to NATS", extra={"url": self.url})
        for callback in self._on_reconnect:
            callback()

    async def _closed(self) -> None:
        if not self._closing:
            self._ended.set()

    async def until_ended(self) -> None:
        """Raises `BusAway` once the server has ended the connection with an error, as at a limit of
        subscriptions: the client gives up then, and whoever only waited for it would wait for ever.
        """
        await self._ended.wait()
        raise BusAway(f"NATS at {self.url} ended the connection for good: {self._client.last_error}")

    async def close(self, wait_s: float = 2.0) -> None:
        """Let running handlers finish for at most `wait_s`, then disconnect."""
        self._closing = True
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=wait_s)
        for task in self._in_flight:
            task.cancel()
        try:
            async with asyncio.timeout(wait_s):
                await self._client.close()
        except (TimeoutError, nats.errors.Error, OSError) as error:
            logger.debug("closing NATS: %s", error)

    async def publish(self, address: Address[T], message: T) -> bool:
        """Core NATS, at most once. False if NATS is away: the caller repeats its message anyway."""
        if not self._client.is_connected:
            dropped_messages.labels(address.template).inc()
            return False
        try:
            await self._client.publish(
                address.subject,
                codec.encode(message),
                headers=telemetry.inject() or None,
            )
        except (nats.errors.Error, OSError) as error:
            logger.debug("publish to %s: %s", address.subject, error)
            return False
        return True

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until the server has seen everything published and subscribed so far. Best effort.

        The client's flush overtakes what still waits in its buffer; a second one comes behind all of it.
        """
        try:
            with heeding_cancellation():
                for _ in range(2):
                    await self._client.flush(timeout=max(1, int(timeout_s)))
        except (nats.errors.Error, TimeoutError, OSError) as error:
            logger.debug("flush: %s", error)

    async def request(self, address: RequestAddress[T, R], message: T, timeout_s: float) -> R:
        """Raises `Refused` (the other side said no), `NoAnswer` (nobody there, or too late) or `BusAway`."""
        with telemetry.tracer.start_as_current_span(address.template, kind=SpanKind.CLIENT):
            answer = await self._ask(address, message, timeout_s)
        refused = ERROR_HEADER in (answer.headers or {})
        try:
            if not refused:
                return codec.decode(address.reply, answer.data)
            refusal = codec.decode(Refusal, answer.data)
            raise Refused(refusal.code, refusal.message, refusal.hint, refusal.retry_after_s)
        except codec.Undecodable as error:
            undecodable_messages.labels(address.template).inc()
            raise NoAnswer(f"{address.subject} answered with bytes nobody understands: {error}") from None

    async def _ask(self, address: RequestAddress[T, R], message: T, timeout_s: float) -> Msg:
        if not self._client.is_connected:
            raise BusAway(f"NATS at {self.url} is away")
        try:
            with heeding_cancellation():
                return await self._client.request(
                    address.subject,
                    codec.encode(message),
                    timeout=timeout_s,
                    headers=telemetry.inject() or None,
                )
        except nats.errors.NoRespondersError:
            raise NoAnswer(f"nobody serves {address.subject}") from None
        except (TimeoutError, nats.errors.TimeoutError):
            raise NoAnswer(f"no answer on {address.subject} within {timeout_s:g} s") from None
        except (nats.errors.Error, OSError) as error:
            raise BusAway(f"NATS at {self.url}: {error or type(error).__name__}") from None

    async def subscribe(
        self,
        subject: Subject[T],
        handler: Callable[[T, Meta], None],
        *,
        queue: str = "",
        **tokens: str,
    ) -> Subscription:
        """Call `handler` with every message, one after another, in order. It must not block: hand work on."""

        async def deliver(raw: Msg) -> None:
            received = self._receive(subject, raw)
            if received is not None:
                try:
                    handler(*received)
                except Exception:
                    logger.exception("handling a message on %s failed", raw.subject)

        return await self._client.subscribe(subject.pattern(**tokens), queue=queue, cb=deliver)

    async def serve(
        self,
        subject: Request[T, R],
        handler: Callable[[T, Meta], Awaitable[R]],
        *,
        queue: str = "",
        **tokens: str,
    ) -> Subscription:
        """Answer every request with `handler`'s reply or the refusal it raises, each in a task of its own."""

        async def deliver(raw: Msg) -> None:
            if len(self._in_flight) >= MAX_REQUESTS_IN_FLIGHT:
                await self._refuse(raw, BUSY)
                return
            task = asyncio.create_task(self._handle(subject, handler, raw))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

        return await self._client.subscribe(subject.pattern(**tokens), queue=queue, cb=deliver)

    async def _handle(
        self,
        subject: Request[T, R],
        handler: Callable[[T, Meta], Awaitable[R]],
        raw: Msg,
    ) -> None:
        received = self._receive(subject, raw)
        if received is None:
            expected = f"the request is not a {subject.struct.__name__} on {subject.template}"
            await self._refuse(raw, Refusal("undecodable", expected, "see docs/asyncapi.yaml"))
            return
        span = telemetry.tracer.start_as_current_span(
            subject.template,
            context=received[1].context,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        )
        with span:
            try:
                reply = codec.encode(await handler(*received))
            except Refused as refused:
                await self._refuse(raw, refused.refusal)
            except Exception:
                logger.exception("serving %s failed", raw.subject)
                await self._refuse(raw, INTERNAL)
            else:
                await self._respond(raw, reply, None)

    async def _refuse(self, raw: Msg, refusal: Refusal) -> None:
        await self._respond(raw, codec.encode(refusal), {ERROR_HEADER: refusal.code})

    async def _respond(self, raw: Msg, payload: bytes, headers: dict[str, Any] | None) -> None:
        if not raw.reply:
            return
        try:
            await self._client.publish(raw.reply, payload, headers=headers)
        except (nats.errors.Error, OSError) as error:
            logger.warning("could not answer on %s: %s", raw.subject, error)

    def _receive(self, subject: Subject[T], raw: Msg) -> tuple[T, Meta] | None:
        """The message and its tokens, None if either is not what the subject promises."""
        try:
            message = codec.decode(subject.struct, raw.data)
            tokens = subject.parse(raw.subject)
        except (codec.Undecodable, InvalidName) as error:
            undecodable_messages.labels(subject.template).inc()
            logger.warning("undecodable message: %s", error, extra={"subject": raw.subject})
            return None
        return message, Meta(tokens, telemetry.extract(raw.headers))


def _without_password(url: str) -> str:
    """For logs and errors."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]
