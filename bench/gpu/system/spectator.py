"""A viewer that also notes which worker made a chunk and when, and whose session may be suspended."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.viewer import CREDIT_WINDOW, Playback

_HTTP_S = 30.0
_LOOK_S = 0.5
LATE_S = 0.001
"""A chunk that came later than its predecessor ended by more is late."""
PROMPTS = (
    "a red circle bouncing over the meadow",
    "a blue square moving right at night",
    "a yellow star orbiting over the sea",
    "a green triangle moving up in the desert",
)


@dataclass(frozen=True)
class Seen:
    """A chunk's delivery; `at` and `begun_at` (its first step's beginning, or earlier) by the wall clock."""

    index: int
    at: float
    worker: str
    begun_at: float
    stalled_s: float
    stages: dict[str, float]


@dataclass
class Watched(Playback):
    chunks_seen: list[Seen] = field(default_factory=list)
    restored_to_pixel_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Continuous play: played ÷ (played + stalled)."""
        whole = self.played_s + self.stalled_s
        return self.played_s / whole if whole else 0.0

    @property
    def late(self) -> int:
        return sum(seen.stalled_s > LATE_S for seen in self.chunks_seen)

    @property
    def fps(self) -> float:
        whole = self.played_s + self.stalled_s
        return self.frames / whole if whole else 0.0


class Spectator:
    """Plays in real time without prebuffer, by the definitions of `bench.viewer`. `steer_every_s` 0: never
    changes the prompt; else at random moments, about as often. While its session is suspended nothing is due.
    `hungry`: is done with a chunk as soon as it has it, so that nothing but the worker sets the pace; what
    the playback says of playing means nothing then.
    """

    def __init__(self, url: str, seed: int, rung: str, steer_every_s: float, *, hungry: bool = False) -> None:
        self.seen = Watched()
        self.joined = asyncio.Event()
        self.worker = ""
        self._url, self._seed, self._rung, self._steer_every_s = url, seed, rung, steer_every_s
        self._hungry = hungry
        self._chance = random.Random(seed)
        self._until = float("inf")
        self._suspended = False
        self._restored_at: float | None = None
        self._play_ends_at = self._delivered_at = 0.0
        self._granted_at: dict[int, float] = {}
        self._steered: tuple[int, float] | None = None
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def session(self) -> str:
        return self.seen.session

    def finish(self, after_s: float = 0.0) -> None:
        self._until = time.monotonic() + after_s

    def suspended(self) -> None:
        """To be called before the session is."""
        self._suspended = True

    def restored(self) -> None:
        """To be called as the session is asked back."""
        self._restored_at = time.monotonic()

    def forget(self) -> None:
        """Playing counts from here on: for whoever measures steady play."""
        self.seen.played_s = self.seen.stalled_s = 0.0
        self.seen.frames = 0
        self.seen.chunks_seen.clear()
        self.seen.chunk_latencies_s.clear()
        self.seen.prompt_to_pixel_s.clear()

    async def watch(self) -> Watched:
        """Open, play until told to finish, close. What goes wrong is among `problems`."""
        async with httpx.AsyncClient(base_url=self._url, timeout=_HTTP_S, trust_env=False) as http:
            opened_at = time.monotonic()
            body = {"prompt": PROMPTS[self._seed % 4], "seed": self._seed}
            answer = await http.post("/v1/sessions", json=body | ({"rung": self._rung} if self._rung else {}))
            answer.raise_for_status()
            self.seen.session = answer.json()["id"]
            stream = f"{self._url.replace('http', 'ws', 1)}/v1/sessions/{self.session}/stream?from=0"
            try:
                async with connect(stream, max_size=None, compression=None, proxy=None) as socket:
                    steering = asyncio.create_task(self._steer(http))
                    try:
                        await self._receive(socket, opened_at)
                    finally:
                        steering.cancel()
            except (ConnectionClosed, OSError) as error:
                self.seen.problems.append(f"connection: {error}")
            finally:
                await http.delete(f"/v1/sessions/{self.session}")
        return self.seen

    async def _receive(self, socket: ClientConnection, opened_at: float) -> None:
        header: dict[str, Any] = {}
        while (left_s := self._until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    message = await socket.recv()
            except TimeoutError:
                continue
            if isinstance(message, bytes):
                self._delivered(socket, header, opened_at)
                continue
            header = json.loads(message)
            if header["type"] in ("error", "cut", "end"):
                self.seen.problems.append(str(message))
        if self._delivered_at and not self._suspended:
            self.seen.stalled_s += max(0.0, time.monotonic() - self._play_ends_at)

    def _delivered(self, socket: ClientConnection, header: dict[str, Any], opened_at: float) -> None:
        now, index, seen = time.monotonic(), header["index"], self.seen
        if index != seen.chunks:
            seen.problems.append(f"chunk {index} came where {seen.chunks} was due")
        duration_s = header["frames"] / header["fps"]
        stalled_s = 0.0
        if seen.chunks == 0:
            seen.ttfc_s = now - opened_at
            self.joined.set()
        elif self._suspended:
            self._after_suspension(now)
        else:
            due_at = max(self._delivered_at, self._granted_at.get(index - CREDIT_WINDOW, 0.0))
            seen.chunk_latencies_s.append(now - due_at)
            seen.chunk_duration_s = duration_s
            stalled_s = max(0.0, now - self._play_ends_at)
        seen.stalled_s += stalled_s
        self._play_ends_at = max(now, self._play_ends_at) + duration_s
        self._delivered_at, self.worker = now, header["worker"]
        seen.played_s += duration_s
        seen.chunks, seen.frames = index + 1, seen.frames + header["frames"]
        seen.chunks_seen.append(_seen(header, stalled_s))
        seen.deliveries_s.append(time.time() - header["made_at"])
        if self._steered is not None and header["inputs_version"] >= self._steered[0]:
            seen.prompt_to_pixel_s.append(now - self._steered[1])
            self._steered = None
        loop, wait_s = asyncio.get_running_loop(), 0.0 if self._hungry else self._play_ends_at - now
        loop.call_later(wait_s, self._grant, socket, index)

    def _after_suspension(self, now: float) -> None:
        """Chunks that were made before it still come; with the first one after it, time counts again."""
        if self._restored_at is not None:
            self.seen.restored_to_pixel_s.append(now - self._restored_at)
            self._suspended, self._restored_at = False, None

    def _grant(self, socket: ClientConnection, index: int) -> None:
        self._granted_at[index] = time.monotonic()
        self._granted_at.pop(index - 2 * CREDIT_WINDOW, None)
        sending = asyncio.get_running_loop().create_task(_send(socket, index))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _steer(self, http: httpx.AsyncClient) -> None:
        turn = self._seed
        while self._steer_every_s:
            await asyncio.sleep(self._steer_every_s * self._chance.uniform(0.5, 1.5))
            if self._suspended or self._steered is not None:
                continue
            turn += 1
            body = {"prompt": PROMPTS[turn % len(PROMPTS)]}
            answer = await http.post(f"/v1/sessions/{self.session}/prompt", json=body)
            if answer.status_code >= 400:
                self.seen.problems.append(f"prompt: {answer.text[:200]}")
                return
            self._steered = answer.json()["inputs_version"], time.monotonic()


def _seen(header: dict[str, Any], stalled_s: float) -> Seen:
    stages = {name.removesuffix("_s"): seconds for name, seconds in header["timings"].items()}
    busy_s = sum(seconds for name, seconds in stages.items() if name != "due_to_start")
    return Seen(header["index"], time.time(), header["worker"], header["made_at"] - busy_s, stalled_s, stages)


async def _send(socket: ClientConnection, index: int) -> None:
    try:
        await socket.send(json.dumps({"type": "grant", "granted_through": index}))
    except ConnectionClosed:
        return  # the receiving side reports it
