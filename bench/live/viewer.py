"""A simulated viewer: does what its trace says, plays what comes in real time and grants what has played."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence

from bench.live.house import House
from bench.live.screen import Screen, StreamLost
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
        self._watching: asyncio.Task[None] | None = None
        self._screen = Screen(house, api, self._session)

    @property
    def problems(self) -> list[str]:
        return self._screen.problems

    @property
    def lost_chunks(self) -> int:
        return self._screen.lost_chunks

    async def run(self, until: Until) -> None:
        """Until its user departs, or for ever. A failure ends what is served, not what is counted."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._act(until))
            tasks.create_task(self._served())

    async def close(self) -> None:
        """Closes its session if it is still open. Raises nothing: others are to be closed, too."""
        self._screen.hold()
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
            self._screen.go_on()
            self._wanted = "active"
        elif event.event == "idle":
            house.pause(session)
            self._screen.hold()
            self._wanted = "paused"
        elif event.event == "depart":
            house.depart(session)
            self._screen.hold()
            self._wanted = "gone"

    # What the system is told.

    async def _served(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._drive(tasks)
        except* (Failed, StreamLost, TurboserveError) as errors:
            self._fail(str(errors.exceptions[0]))

    async def _drive(self, tasks: asyncio.TaskGroup) -> None:
        """The newest wish counts: what changed while a call was under way is told after it."""
        while self._told != "gone" and not self._session.refused:
            if self._wanted == self._told:
                self._screen.hear_again()
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
                self._screen.heard(info.status, info.worker)
                return True
        raise AssertionError("the last try returns or raises")

    async def _change(self, wanted: str) -> None:
        path = f"/v1/sessions/{self._id}"
        if wanted == "active" and self._new_prompt:
            prompt, self._new_prompt = self._new_prompt, ""
            await self._api.call("POST", f"{path}/prompt", dict, body={"prompt": prompt}, timeout_s=_CALL_S)
        verb = {"active": "resume", "paused": "pause"}[wanted]
        info = await self._api.call("POST", f"{path}/{verb}", SessionInfo, timeout_s=_CALL_S)
        self._screen.heard(info.status, info.worker)

    def _fail(self, why: str) -> None:
        self.failed = True
        self.problems.append(why)
        self._screen.hold()
        self._house.give_up(self._session, refused=False)

    async def _watch(self) -> None:
        """Raises StreamLost, Failed if its session ends though its user wants more."""
        end = await self._screen.watch(self._id)
        if self._wanted == "gone":
            return
        info = await self._api.call("GET", f"/v1/sessions/{self._id}", SessionInfo, timeout_s=_CALL_S)
        if info.phase != "refused":
            raise Failed(f"its session ended: {end['status']} {end['reason']}")
        self._house.give_up(self._session, refused=True)
        self._wake.set()


def is_refusal(error: TurboserveError) -> bool:
    """A 429 or 503 that isn't an outage: the system says no."""
    return error.code not in _AWAY and not isinstance(error, InvalidRequest | NotPossible | SessionEnded)
