"""A simulated viewer: does what its trace says, plays what comes in real time and grants what has played."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bench.live.credit import Credit
from bench.live.house import House
from bench.sim.parts import SimSession
from bench.traces.events import Event
from turboserve.errors import InvalidRequest, NotPossible, SessionEnded, TurboserveError
from turboserve.http_api import HttpApi
from turboserve.messages import SessionInfo

PROMPTS = (
    "a red circle bouncing over the meadow",
    "a blue square moving right at night",
    "a yellow star orbiting over the sea",
    "a green triangle moving up in the desert",
)
_TRIES = 4
_PAUSE_S = 0.5
_CONNECT_S = 10.0
_CALL_S = 10.0
_AWAY = frozenset({"unreachable", "placement_away", "service_away", "store_unavailable"})
"""Codes of a system that will be back: asked again. A 429 or 503 with another is its word."""

Until = Callable[[float], Awaitable[None]]
"""Sleeps until a time of the replay."""


class Failed(Exception):
    """This viewer can't go on; says why, in words."""


class Viewer:
    """`events`: of one session, in order. `problems`: what it saw that should not be, in words;
    `failed`: the last of them was its end.
    """

    def __init__(self, house: House, api: HttpApi, events: Sequence[Event], number: int) -> None:
        self.problems: list[str] = []
        self.failed = False
        self._house = house
        self._api = api
        self._events = events
        self._number = number
        self._session: SimSession = house.arrive(events[0].session)
        self._prompt = PROMPTS[number % len(PROMPTS)]
        self._new_prompt = ""
        self._wanted = self._told = "nothing"
        self._wake = asyncio.Event()
        self._id = ""
        self._next_index = 0
        self._tries = 0
        self._socket: ClientConnection | None = None
        self._watching: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._credit = Credit(asyncio.get_running_loop(), self._grant)

    async def run(self, until: Until) -> None:
        """Until its user departs, or for ever. A failure ends what is served, not what is counted."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._act(until))
            tasks.create_task(self._served())

    async def close(self) -> None:
        """Closes its session if it is still open. Raises nothing: others are to be closed, too."""
        self._credit.hold()
        given, self._id = self._id, ""
        if given:
            with contextlib.suppress(TurboserveError):
                path = f"/v1/sessions/{given}"
                await self._api.call("DELETE", path, type(None), timeout_s=_CALL_S, tries=2)

    # What its user does.

    async def _act(self, until: Until) -> None:
        for event in self._events:
            await until(event.time_s)
            self._happen(event)
            self._wake.set()

    def _happen(self, event: Event) -> None:
        house, session = self._house, self._session
        if event.prompt:
            self._prompt = self._new_prompt = event.prompt
        if event.event == "active" or event.active:
            house.activate(session)
            self._credit.go_on()
            self._wanted = "active"
        elif event.event == "idle":
            house.pause(session)
            self._credit.hold()
            self._wanted = "paused"
        elif event.event == "depart":
            house.depart(session)
            self._credit.hold()
            self._wanted = "gone"

    # What the system is told.

    async def _served(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._drive(tasks)
        except* (Failed, TurboserveError) as errors:
            self._fail(str(errors.exceptions[0]))

    async def _drive(self, tasks: asyncio.TaskGroup) -> None:
        """The newest wish counts: what changed while a call was under way is told after it."""
        while self._told != "gone" and not self._session.refused:
            if self._wanted == self._told:
                self._wake.clear()
                await self._wake.wait()
                continue
            wanted = self._wanted
            await self._tell(wanted, tasks)
            self._told = wanted

    async def _tell(self, wanted: str, tasks: asyncio.TaskGroup) -> None:
        if wanted == "gone":
            if self._watching is not None:
                self._watching.cancel()
            await self.close()
        elif not self._id and wanted == "active":
            if await self._open():
                self._watching = tasks.create_task(self._watch())
        elif self._id:
            await self._change(wanted)

    async def _open(self) -> bool:
        """False: the system refuses it. Raises Failed."""
        body = {"prompt": self._prompt, "seed": self._number}
        key = {"Idempotency-Key": secrets.token_hex(16)}
        self._new_prompt = ""
        for attempt in itertools.count(1):
            try:
                info = await self._api.call(
                    "POST", "/v1/sessions", SessionInfo, body=body, headers=key, timeout_s=_CALL_S, tries=1
                )
            except TurboserveError as error:
                if is_refusal(error):
                    self._house.give_up(self._session, refused=True)
                    return False
                if error.code not in _AWAY or attempt == _TRIES:
                    raise Failed(f"opening: {error.message}") from None
                await asyncio.sleep(_PAUSE_S)
            else:
                self._id = info.id
                self._heard(info.status, info.worker)
                return True
        raise AssertionError("the last try returns or raises")

    async def _change(self, wanted: str) -> None:
        path = f"/v1/sessions/{self._id}"
        if wanted == "active" and self._new_prompt:
            prompt, self._new_prompt = self._new_prompt, ""
            await self._api.call("POST", f"{path}/prompt", dict, body={"prompt": prompt}, timeout_s=_CALL_S)
        verb = {"active": "resume", "paused": "pause"}[wanted]
        info = await self._api.call("POST", f"{path}/{verb}", SessionInfo, timeout_s=_CALL_S)
        self._heard(info.status, info.worker)

    def _fail(self, why: str) -> None:
        self.failed = True
        self.problems.append(why)
        self._credit.hold()
        self._house.give_up(self._session, refused=False)

    # What it is shown.

    async def _watch(self) -> None:
        """Comes back a few times if the connection is lost. Raises Failed."""
        while self._told != "gone":
            try:
                async with self._connected() as socket:
                    await self._receive(socket)
                return
            except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
                self._tries += 1
                if self._tries == _TRIES:
                    raise Failed(f"its stream broke off: {error}") from None
                await asyncio.sleep(_PAUSE_S)
            finally:
                self._socket = None

    def _connected(self) -> connect:
        base = "ws" + self._api.url.removeprefix("http")
        return connect(
            f"{base}/v1/sessions/{self._id}/stream?from={self._next_index}",
            compression=None,
            proxy=None if self._api.is_local else True,
            open_timeout=_CONNECT_S,
            close_timeout=1.0,
            max_size=None,
        )

    async def _receive(self, socket: ClientConnection) -> None:
        """Returns when nothing more will come."""
        self._socket = socket
        header: dict[str, Any] = {}
        async for message in socket:
            if isinstance(message, bytes):
                self._delivered(header)
                continue
            header = json.loads(message)
            kind = header.get("type")
            if kind == "session":
                self._heard(header["session"]["status"], header["session"]["worker"])
            elif kind == "state":
                self._heard(header["status"], header["worker"])
            elif kind in ("cut", "error"):
                self.problems.append(f"{kind}: {message}")
                self._next_index = header.get("to", self._next_index)
            elif kind == "end":
                await self._ended(header)
                return
        raise ConnectionError("the server closed it")

    def _heard(self, status: str, worker: str) -> None:
        if status in ("active", "queued"):
            self._house.owned_by(self._session, worker if status == "active" else "")

    async def _ended(self, news: dict[str, Any]) -> None:
        """By the system: its user wanted more, unless it has just departed. Raises Failed."""
        if self._wanted == "gone":
            return
        info = await self._api.call("GET", f"/v1/sessions/{self._id}", SessionInfo, timeout_s=_CALL_S)
        if info.phase != "refused":
            raise Failed(f"its session ended: {news['status']} {news['reason']}")
        self._house.give_up(self._session, refused=True)
        self._wake.set()

    def _delivered(self, header: dict[str, Any]) -> None:
        session, house, index = self._session, self._house, header["index"]
        if session.gone or session.refused:
            return
        if index != self._next_index:
            self.problems.append(f"chunk {index} came where {self._next_index} was due")
        self._next_index, self._tries = index + 1, 0
        now_s = house.now()
        house.deliver(session, now_s, header["frames"] / header["fps"])
        self._credit.delivered(index, session.play_end_s - (now_s if session.active else 0.0))

    def _grant(self, index: int) -> None:
        if self._socket is not None:
            task = asyncio.create_task(_send(self._socket, {"type": "grant", "granted_through": index}))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)


def is_refusal(error: TurboserveError) -> bool:
    """A 429 or 503 that isn't an outage: the system says no."""
    return error.code not in _AWAY and not isinstance(error, InvalidRequest | NotPossible | SessionEnded)


async def _send(socket: ClientConnection, message: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionClosed):  # the receiving side sees to it
        await socket.send(json.dumps(message))
