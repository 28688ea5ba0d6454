"""A simulated viewer's screen: the stream it watches, what it plays of it, and the credit it gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bench.live.credit import Credit
from bench.live.house import House
from bench.sim.parts import SimSession
from turboserve.http_api import HttpApi

_TRIES = 4
_PAUSE_S = 0.5
_CONNECT_S = 10.0


class StreamLost(Exception):
    """It broke off, and did not come back."""


class Screen:
    """Shows `session`, which the system calls `session_id` once `watch` is called. `problems`: what came that
    should not have, in words. `lost_chunks`: that never came though later ones did.
    """

    def __init__(self, house: House, api: HttpApi, session: SimSession) -> None:
        self.problems: list[str] = []
        self.lost_chunks = 0
        self._house = house
        self._api = api
        self._session = session
        self._last_heard = "", ""
        self._next_index = 0
        self._tries = 0
        self._socket: ClientConnection | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._credit = Credit(asyncio.get_running_loop(), self._grant)

    def hold(self) -> None:
        """Its viewer pauses, or is gone: nothing plays."""
        self._credit.hold()

    def go_on(self) -> None:
        self._credit.go_on()

    async def watch(self, session_id: str) -> dict[str, Any]:
        """Until the system says that nothing more will come: answers with its `end`. Comes back a few times
        if the connection is lost. Raises StreamLost.
        """
        while True:
            try:
                async with self._connected(session_id) as socket:
                    return await self._receive(socket)
            except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
                self._tries += 1
                if self._tries == _TRIES:
                    raise StreamLost(f"its stream broke off: {error}") from None
                await asyncio.sleep(_PAUSE_S)
            finally:
                self._socket = None

    def heard(self, status: str, worker: str) -> None:
        """The system's word on who has the session."""
        self._last_heard = status, worker
        if status in ("active", "queued"):
            self._house.owned_by(self._session, worker if status == "active" else "")

    def hear_again(self) -> None:
        """Its user paused and came back before the system was told, which so has nothing new to say."""
        self.heard(*self._last_heard)

    def _connected(self, session_id: str) -> connect:
        base = "ws" + self._api.url.removeprefix("http")
        return connect(
            f"{base}/v1/sessions/{session_id}/stream?from={self._next_index}",
            compression=None,
            proxy=None if self._api.is_local else True,
            open_timeout=_CONNECT_S,
            close_timeout=1.0,
            max_size=None,
        )

    async def _receive(self, socket: ClientConnection) -> dict[str, Any]:
        self._socket = socket
        header: dict[str, Any] = {}
        async for message in socket:
            if isinstance(message, bytes):
                self._delivered(header)
                continue
            header = json.loads(message)
            kind = header.get("type")
            if kind == "session":
                self.heard(header["session"]["status"], header["session"]["worker"])
            elif kind == "state":
                self.heard(header["status"], header["worker"])
            elif kind in ("cut", "error"):
                self.problems.append(f"{kind}: {message}")
                self._skip_to(header.get("to", self._next_index))
            elif kind == "end":
                return header
        raise ConnectionError("the server closed it")

    def _delivered(self, header: dict[str, Any]) -> None:
        session, house, index = self._session, self._house, header["index"]
        if session.gone or session.refused:
            return
        if index != self._next_index:
            self.problems.append(f"chunk {index} came where {self._next_index} was due")
            self._skip_to(index)
        self._next_index, self._tries = index + 1, 0
        now_s = house.now()
        house.deliver(session, now_s, header["frames"] / header["fps"])
        self._credit.delivered(index, session.play_end_s - (now_s if session.active else 0.0))

    def _skip_to(self, index: int) -> None:
        self.lost_chunks += max(0, index - self._next_index)
        self._next_index = index

    def _grant(self, index: int) -> None:
        if self._socket is not None:
            task = asyncio.create_task(_send(self._socket, {"type": "grant", "granted_through": index}))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)


async def _send(socket: ClientConnection, message: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionClosed):  # the receiving side sees to it
        await socket.send(json.dumps(message))
