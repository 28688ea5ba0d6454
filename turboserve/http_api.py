"""The gateway's HTTP calls, with tries within a bound and errors as exceptions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection

from turboserve.errors import InvalidRequest, TurboserveError, Unreachable, of_status

T = TypeVar("T")

_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 5.0
TRIES = 3
_FIRST_PAUSE_S = 0.3
_LONGEST_PAUSE_S = 2.0
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _ErrorDetail(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _ErrorDetail


class HttpApi:
    """`trace`: send the current trace's context, if OpenTelemetry is installed. `sockets`: those open, to be
    closed.
    """

    def __init__(self, url: str, *, trace: bool) -> None:
        self.url = _checked(url)
        # A proxy for the outside world can't reach a server of this machine.
        self.is_local = urlsplit(self.url).hostname in _LOCAL
        self._trace = trace
        self.sockets: set[ClientConnection] = set()
        self._http = httpx.AsyncClient(base_url=self.url, trust_env=not self.is_local)

    async def close(self) -> None:
        for socket in list(self.sockets):
            await socket.close()
        self.sockets.clear()
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: Mapping[str, object] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
        tries: int = TRIES,
    ) -> T:
        """Calls that are tried again may be repeated safely: opening carries a key, others are absolute.
        Raises TurboserveError.
        """
        with self._span(f"turboserve {method} {path.rpartition('/')[2]}"):
            sent = dict(headers or {}) | self.trace_headers()
            timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
            for attempt in range(tries):
                last_try = attempt == tries - 1
                try:
                    response = await self._http.request(
                        method, path, json=body, params=params, headers=sent, timeout=timeout
                    )
                except httpx.TransportError as error:
                    if last_try:
                        raise self.unreachable(error) from None
                else:
                    if last_try or not _soon_over(response):
                        return _read(response, answer)
                await asyncio.sleep(min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))
        raise AssertionError("the last try returns or raises")

    def unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(
            "unreachable",
            f"no turboserve answers at {self.url} ({reason})",
            "start one with `turboserve up`, or name where it is with --url or TURBOSERVE_URL",
        )

    def trace_headers(self) -> dict[str, str]:
        """W3C trace context of the current span, if wanted."""
        carrier: dict[str, str] = {}
        if self._trace:
            with contextlib.suppress(ImportError):
                from opentelemetry import propagate

                propagate.inject(carrier)
        return carrier

    @contextlib.contextmanager
    def _span(self, name: str) -> Iterator[None]:
        if self._trace:
            with contextlib.suppress(ImportError):
                from opentelemetry.trace import SpanKind, get_tracer

                with get_tracer("turboserve.client").start_as_current_span(name, kind=SpanKind.CLIENT):
                    yield
                return
        yield


def _soon_over(response: httpx.Response) -> bool:
    """Whether it is an outage that another try may outlast. Without a time it may be."""
    if response.status_code != 503:
        return False
    later_s = _retry_after_s(response)
    return later_s is None or later_s <= _LONGEST_PAUSE_S


def _retry_after_s(response: httpx.Response) -> float | None:
    told = response.headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else None


def _checked(url: str) -> str:
    if not _is_address(url):
        raise InvalidRequest(
            "bad_url", f"{url!r} is not the address of a turboserve", "write it as http://host:port"
        )
    return url.rstrip("/")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that don't match, or a port that is none
        return False


def _read(response: httpx.Response, answer: type[T]) -> T:
    if response.is_success:
        try:
            return msgspec.json.decode(response.content or b"null", type=answer)
        except msgspec.MsgspecError as error:
            raise TurboserveError(
                "bad_answer", f"{response.url} answered something else than expected: {error}", _IS_IT
            ) from None
    try:
        detail = msgspec.json.decode(response.content, type=_ErrorBody).error
    except msgspec.MsgspecError:
        message = f"{response.url} answered {response.status_code} without saying why"
        raise of_status(response.status_code, "unexplained", message, _IS_IT) from None
    refused = of_status(response.status_code, detail.code, detail.message, detail.hint)
    refused.retry_after_s = _retry_after_s(response)
    raise refused


_IS_IT = "is it a turboserve that listens there?"
