"""A session as its viewer holds it: chunks to iterate over, and the calls that steer it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from turboserve.errors import (
    ChunksGone,
    InvalidRequest,
    SessionEnded,
    TurboserveError,
    UnknownSession,
    Unreachable,
)
from turboserve.http_api import HttpApi
from turboserve.messages import Chunk, SessionInfo, Steered

CREDIT_WINDOW = 2
"""Chunks up to this many after the last one granted may be made."""

_LARGEST_MESSAGE_BYTES = 16 * 1024 * 1024
_CONNECT_DEADLINE_S = 10.0
_CLOSE_DEADLINE_S = 2.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 3.0
_TOLD = (
    "status",
    "phase",
    "reason",
    "worker",
    "rung",
    "position",
    "expected_wait_s",
    "served_rung",
    "decision",
)
_COME_BACK, _NONSENSE, _UNKNOWN, _GONE = 1013, 4400, 4404, 4410


class Session:
    """Iterate over it to get its chunks, each once and in order. One iteration at a time; it goes on where it
    stopped.

    A chunk counts as consumed when the next one is asked for. No more than two are made ahead of that, so who
    stops asking stops the work. A lost connection is taken up again for `patience_s`; then `Unreachable` is
    raised. `cuts`: stretches [from, to) that were thrown away before they could be had, because this viewer
    was too slow.
    """

    def __init__(self, api: HttpApi, info: SessionInfo, start: int | None, patience_s: float) -> None:
        self.info = info
        self.next_index = start
        self.cuts: list[tuple[int, int]] = []
        self._api = api
        self._patience_s = patience_s
        self._socket: ClientConnection | None = None
        self._granted_through = -1
        self._consumed_through = -1
        self._held: int | None = None
        self._announced: Chunk | None = None
        self._refusal: dict[str, Any] = {}
        self._ended = False
        self._joined = False
        self._lost_at: float | None = None
        self._tries = 0

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def warnings(self) -> list[str]:
        """What the model did not understand of the prompt the session was opened with."""
        return self.info.warnings

    @property
    def status(self) -> str:
        return self.info.status

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> Chunk:
        if self.next_index is not None:
            self._consumed_through = self.next_index - 1
        while not self._ended:
            try:
                socket = self._socket or await self._connect()
                await self._grant(socket)
                chunk = await self._next_chunk(socket)
            except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
                await self._lost(error)
            else:
                if chunk is not None:
                    return chunk
        await self.leave()
        if self.info.status == "failed":
            raise SessionEnded(
                "session_failed", f"session {self.id} failed: {self.info.reason or 'no reason given'}"
            )
        raise StopAsyncIteration

    async def steer(self, prompt: str) -> Steered:
        """Change the prompt; the newest wins. Returns once the worker has said which chunk will show it."""
        return await self._call("POST", "/prompt", Steered, {"prompt": prompt})

    async def set_rung(self, rung: str) -> None:
        """Have the chunks that have not started made at another quality ("": the model's default)."""
        self.info = await self._call("POST", "/rung", SessionInfo, {"rung": rung})

    async def pause(self) -> None:
        self.info = await self._call("POST", "/pause", SessionInfo)

    async def resume(self) -> None:
        self.info = await self._call("POST", "/resume", SessionInfo)

    async def close(self) -> None:
        """End the session for everybody. Closing a closed one is fine."""
        await self.leave()
        await self._call("DELETE", "", type(None))

    async def leave(self) -> None:
        """Stop watching; the session itself goes on, and a later iteration takes it up again."""
        socket, self._socket = self._socket, None
        if socket is not None:
            self._api.sockets.discard(socket)
            await socket.close()

    def hold(self, index: int | None) -> None:
        """Keep chunk `index` from being made until `hold(None)`: a steer in between shows in exactly that
        chunk.

        The chunks before it still come. Works for an `index` that hasn't been granted yet: two after the last
        asked for.
        """
        self._held = index

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except TurboserveError:
            if error is None:
                raise

    async def _call(
        self, method: str, what: str, answer: type[Any], body: dict[str, object] | None = None
    ) -> Any:
        return await self._api.call(method, f"/v1/sessions/{self.id}{what}", answer, body=body)

    async def _connect(self) -> ClientConnection:
        query = "" if self.next_index is None else "?" + urlencode({"from": self.next_index})
        base = "ws" + self._api.url.removeprefix("http")
        try:
            self._socket = await connect(
                f"{base}/v1/sessions/{self.id}/stream{query}",
                additional_headers=self._api.trace_headers(),
                compression=None,
                proxy=None if self._api.is_local else True,
                open_timeout=_CONNECT_DEADLINE_S,
                close_timeout=_CLOSE_DEADLINE_S,
                max_size=_LARGEST_MESSAGE_BYTES,
            )
        except InvalidURI as error:
            raise InvalidRequest("bad_url", str(error)) from None
        self._api.sockets.add(self._socket)
        self._announced = None
        self._refusal = {}
        return self._socket

    async def _grant(self, socket: ClientConnection) -> None:
        through = self._consumed_through
        if self._held is not None:
            through = min(through, self._held - CREDIT_WINDOW - 1)
        if self._joined and through > self._granted_through:
            await socket.send(msgspec.json.encode({"type": "grant", "granted_through": through}).decode())
            self._granted_through = through

    async def _next_chunk(self, socket: ClientConnection) -> Chunk | None:
        """The next chunk, or None once the server has said that no more will come."""
        while not self._ended:
            message = await socket.recv()
            if isinstance(message, bytes):
                if self._announced is None:
                    raise TurboserveError(
                        "bad_answer", "the server sent a chunk without saying which one it is"
                    )
                return self._take(message)
            self._hear(msgspec.json.decode(message))
            await self._grant(socket)
        return None

    def _take(self, media: bytes) -> Chunk:
        assert self._announced is not None, "checked by the caller"
        chunk = msgspec.structs.replace(self._announced, media=media)
        self._announced = None
        self.next_index = chunk.index + 1
        self._tries = 0
        return chunk

    def _hear(self, event: dict[str, Any]) -> None:
        hear: Callable[[dict[str, Any]], None] | None = {
            "session": self._hear_session,
            "chunk": self._hear_chunk,
            "state": self._hear_state,
            "cut": self._hear_cut,
            "error": self._hear_error,
            "end": self._hear_end,
        }.get(str(event.get("type")))
        if hear is not None:  # a newer server may say more
            hear(event)

    def _hear_session(self, event: dict[str, Any]) -> None:
        self.info = msgspec.convert(event["session"], SessionInfo)
        self.next_index = int(event["from"])
        self._granted_through = self.next_index - 1
        self._consumed_through = self.next_index - 1
        self._joined = True
        self._lost_at = None

    def _hear_chunk(self, event: dict[str, Any]) -> None:
        self._announced = msgspec.convert(event, Chunk)

    def _hear_state(self, event: dict[str, Any]) -> None:
        changes = {name: event[name] for name in _TOLD if name in event}
        self.info = msgspec.structs.replace(self.info, **changes)

    def _hear_cut(self, event: dict[str, Any]) -> None:
        self.cuts.append((int(event["from"]), int(event["to"])))
        self.next_index = int(event["to"])
        self._granted_through = self._consumed_through = self.next_index - 1

    def _hear_error(self, event: dict[str, Any]) -> None:
        self._refusal = event

    def _hear_end(self, event: dict[str, Any]) -> None:
        self._hear_state(event)
        self._ended = True

    async def _lost(self, error: Exception) -> None:
        """Wait a moment before coming back, or raise what the server said or that it is out of reach."""
        await self.leave()
        self._refused(error)
        now = time.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if now - self._lost_at > self._patience_s:
            raise self._given_up(error) from None
        await asyncio.sleep(min(_FIRST_PAUSE_S * 2.0**self._tries, _LONGEST_PAUSE_S))
        self._tries += 1

    def _refused(self, error: Exception) -> None:
        """Raise if the server closed the stream for a reason that coming back doesn't change."""
        code, words = _close_code(error), self._words(error)
        oldest_held = self._refusal.get("oldest_held")
        if code == _UNKNOWN:
            raise UnknownSession(*words) from None
        if code == _GONE and self._joined and oldest_held is not None:
            self._hear_cut({"from": self.next_index, "to": oldest_held})
        elif code == _GONE:
            raise ChunksGone(*words, oldest_held) from None
        elif code == _NONSENSE or (isinstance(error, InvalidStatus) and error.response.status_code < 500):
            raise InvalidRequest(*words) from None

    def _given_up(self, error: Exception) -> Unreachable:
        """In the server's words if it is there and sent this viewer away."""
        if _close_code(error) == _COME_BACK and self._refusal:
            return Unreachable(*self._words(error))
        return self._api.unreachable(error)

    def _words(self, error: Exception) -> tuple[str, str, str]:
        """Code, message and hint: what the server said last, or else how the connection ended."""
        said = {"code": f"closed_{_close_code(error)}", "message": error, "hint": ""} | self._refusal
        return str(said["code"]), str(said["message"]), str(said["hint"])


def _close_code(error: Exception) -> int | None:
    """The one that the server closed with, None if it did not."""
    return error.rcvd.code if isinstance(error, ConnectionClosed) and error.rcvd else None
