"""The async client library: `async with Client(url) as c: async for chunk in await c.open(prompt=…)`."""

from __future__ import annotations

import os
import secrets
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

import msgspec

from turboserve.http_api import HttpApi
from turboserve.messages import (
    DecisionInfo,
    DecisionRecord,
    Drained,
    FleetInfo,
    Moved,
    SessionInfo,
    Stowed,
    WorkerInfo,
)
from turboserve.session import Session

T = TypeVar("T")

DEFAULT_URL = "http://localhost:8080"
_DRAIN_TIMEOUT_S = 35.0  # each a little longer than the gateway waits itself
_MOVE_TIMEOUT_S = 25.0
_STOW_TIMEOUT_S = 20.0


class _Page(msgspec.Struct, frozen=True):
    sessions: list[SessionInfo]
    cursor: str = ""


class _Workers(msgspec.Struct, frozen=True):
    workers: list[WorkerInfo]


class _Decisions(msgspec.Struct, frozen=True):
    decisions: list[DecisionInfo]


class Client:
    """One gateway, at `url` (None: TURBOSERVE_URL, or else http://localhost:8080).

    Leaving `async with` closes this client's connections, not its sessions: those pause when nobody watches,
    and close by themselves after a longer while. `async with session:` closes that session at once.
    `patience_s`: how long a watched session whose connection is lost is tried again. `trace`: send the
    current OpenTelemetry trace's context along. Every call raises `TurboserveError`.
    """

    def __init__(self, url: str | None = None, *, patience_s: float = 30.0, trace: bool = False) -> None:
        self._api = HttpApi(url or os.environ.get("TURBOSERVE_URL") or DEFAULT_URL, trace=trace)
        self._patience_s = patience_s

    @property
    def url(self) -> str:
        return self._api.url

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def open(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        max_chunks: int | None = None,
        model: str = "",
        rung: str = "",
        priority: int = 0,
    ) -> Session:
        """Open a session. `seed` None: a random one. `max_chunks` None: until it is closed. `priority`, from
        -10 to 10: higher ones are placed before lower ones while not all can be. Iterate over it to watch.
        """
        given = {
            "seed": seed,
            "max_chunks": max_chunks,
            "model": model or None,
            "rung": rung or None,
            "priority": priority or None,
        }
        body = {"prompt": prompt} | {name: value for name, value in given.items() if value is not None}
        # A key makes a repeated call, after an answer was lost, return the session opened the first time.
        key = {"Idempotency-Key": secrets.token_hex(16)}
        info = await self._api.call("POST", "/v1/sessions", SessionInfo, body=body, headers=key)
        return Session(self._api, info, 0, self._patience_s)

    async def watch(self, session: str, from_: int | None = None) -> Session:
        """Watch a session that somebody opened, from chunk `from_` (None: what is made next)."""
        return Session(self._api, await self.get(session), from_, self._patience_s)

    async def get(self, session: str) -> SessionInfo:
        return await self._api.call("GET", f"/v1/sessions/{quote(session, safe='')}", SessionInfo)

    async def sessions(self, *, limit: int = 50, live: bool = False) -> list[SessionInfo]:
        """The newest `limit` sessions, newest first. `live`: only those that have not ended."""
        found: list[SessionInfo] = []
        cursor = ""
        while len(found) < limit:
            asked = {"limit": min(limit - len(found), 200), "live": live, "cursor": cursor}
            page = await self._api.call("GET", "/v1/sessions", _Page, params=asked)
            found += page.sessions
            cursor = page.cursor
            if not cursor:
                break
        return found

    async def workers(self) -> list[WorkerInfo]:
        """Those that are alive, by name."""
        return (await self._api.call("GET", "/v1/workers", _Workers)).workers

    async def fleet(self) -> FleetInfo:
        """What the autoscaler has decided last, and why."""
        return await self._api.call("GET", "/v1/fleet", FleetInfo)

    async def set_fleet(
        self,
        *,
        minimum: int | None = None,
        maximum: int | None = None,
        spare: int | None = None,
        frozen: bool | None = None,
        dry_run: bool | None = None,
    ) -> FleetInfo:
        """Set the fleet's bounds, or how the autoscaler may act on it; None: as it is. Kept over restarts."""
        asked = {
            "minimum": minimum,
            "maximum": maximum,
            "spare": spare,
            "frozen": frozen,
            "dry_run": dry_run,
        }
        body = {name: value for name, value in asked.items() if value is not None}
        return await self._api.call("PATCH", "/v1/fleet", FleetInfo, body=body)

    async def drain(self, worker: str, *, force: bool = False) -> Drained:
        """Take a worker out of service; its sessions go on elsewhere. `force`: even if no other worker could
        take them, so that they wait.
        """
        path = f"/v1/workers/{quote(worker, safe='')}/drain"
        return await self._api.call(
            "POST", path, Drained, params={"force": force}, timeout_s=_DRAIN_TIMEOUT_S
        )

    async def move(self, session: str, to: str = "") -> Moved:
        """Have worker `to` ("": the one with most room) go on with a session. Look at the `outcome`: a move
        that was begun and given up is an answer, not an error.
        """
        return await self._operate(session, "move", Moved, _MOVE_TIMEOUT_S, {"to": to})

    async def suspend(self, session: str) -> Stowed:
        """Pause a session and take its state out of the device's memory; answers when that is done."""
        return await self._operate(session, "suspend", Stowed, _STOW_TIMEOUT_S)

    async def restore(self, session: str) -> Stowed:
        """Bring a suspended session's state back and let it go on; answers when that is done."""
        return await self._operate(session, "restore", Stowed, _STOW_TIMEOUT_S)

    async def decisions(self, *, limit: int = 20, session: str = "") -> list[DecisionInfo]:
        """What placement and the autoscaler decided lately, newest first, at most 200. `session`: only what
        concerns this one. Decisions that changed nothing aren't kept.
        """
        asked = {"limit": limit, "session": session}
        return (await self._api.call("GET", "/v1/decisions", _Decisions, params=asked)).decisions

    async def decision(self, decision: str) -> DecisionRecord:
        """One decision, with all that it was a function of."""
        return await self._api.call("GET", f"/v1/decisions/{quote(decision, safe='')}", DecisionRecord)

    async def _operate(
        self,
        session: str,
        call: str,
        answer: type[T],
        timeout_s: float,
        body: dict[str, object] | None = None,
    ) -> T:
        """Not tried again by itself: a move whose answer was lost may have happened."""
        path = f"/v1/sessions/{quote(session, safe='')}/{call}"
        return await self._api.call("POST", path, answer, body=body, timeout_s=timeout_s, tries=1)
