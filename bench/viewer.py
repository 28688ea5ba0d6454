"""A simulated viewer: opens a session, plays it in real time without prebuffer, grants what it has played.

Metric definitions, the same everywhere in this project:
chunk latency: from when a chunk is due, max(previous one delivered, its credit given), to its delivery here.
TTFC: from the request that opens the session to the first chunk delivered.
prompt-to-pixel: from the answer to a prompt change to the delivery of the first chunk that shows it.
CPR (continuous-play ratio): playable seconds / (playable + stalled).
delivery: from "frames encoded" in the worker to the chunk's bytes here (both on one machine's clock).
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

CREDIT_WINDOW = 2
_OPEN_DEADLINE_S = 30.0


@dataclass
class Playback:
    """What one viewer saw. Times in seconds."""

    session: str = ""
    ttfc_s: float = 0.0
    played_s: float = 0.0
    stalled_s: float = 0.0
    chunks: int = 0
    frames: int = 0
    chunk_latencies_s: list[float] = field(default_factory=list)
    deliveries_s: list[float] = field(default_factory=list)
    prompt_to_pixel_s: list[float] = field(default_factory=list)
    chunk_duration_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class Viewer:
    """One viewer of one session of its own."""

    def __init__(self, url: str, prompts: list[str], steer_every_s: float, seed: int) -> None:
        self._url = url.rstrip("/")
        self._prompts = prompts
        self._steer_every_s = steer_every_s
        self._seed = seed
        self.playback = Playback()
        self._play_ends_at = 0.0
        self._delivered_at = 0.0
        self._granted_at: dict[int, float] = {}
        self._awaited_version = 0
        self._steered_at = 0.0

    async def watch(self, seconds: float) -> Playback:
        """Open, play for `seconds`, close."""
        async with httpx.AsyncClient(base_url=self._url, timeout=_OPEN_DEADLINE_S) as http:
            opened_at = time.monotonic()
            answer = await http.post("/v1/sessions", json={"prompt": self._prompts[0], "seed": self._seed})
            answer.raise_for_status()
            self.playback.session = answer.json()["id"]
            stream = f"{self._url.replace('http', 'ws', 1)}/v1/sessions/{self.playback.session}/stream?from=0"
            try:
                async with connect(stream, max_size=None, compression=None) as socket:
                    steering = asyncio.create_task(self._steer(http))
                    try:
                        await self._receive(socket, opened_at, seconds)
                    finally:
                        steering.cancel()
            finally:
                await http.delete(f"/v1/sessions/{self.playback.session}")
        return self.playback

    async def _receive(self, socket: ClientConnection, opened_at: float, seconds: float) -> None:
        header: dict[str, Any] = {}
        ends_at = time.monotonic() + seconds
        while (remaining := ends_at - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(remaining):
                    message = await socket.recv()
            except TimeoutError:
                break
            if isinstance(message, bytes):
                self._delivered(socket, header, opened_at)
                continue
            header = json.loads(message)
            if header["type"] in ("error", "cut", "end"):
                self.playback.problems.append(message)
        stalled_now = time.monotonic() - self._play_ends_at
        self.playback.stalled_s += max(0.0, stalled_now)

    def _delivered(self, socket: ClientConnection, header: dict[str, Any], opened_at: float) -> None:
        now, index, playback = time.monotonic(), header["index"], self.playback
        if index != playback.chunks:
            playback.problems.append(f"chunk {index} came where {playback.chunks} was due")
        duration_s = header["frames"] / header["fps"]
        playback.deliveries_s.append(time.time() - header["made_at"])
        if playback.chunks == 0:
            playback.ttfc_s = now - opened_at
            self._play_ends_at = now
        else:
            due_at = max(self._delivered_at, self._granted_at.get(index - CREDIT_WINDOW, 0.0))
            playback.chunk_latencies_s.append(now - due_at)
            playback.chunk_duration_s = duration_s
        playback.stalled_s += max(0.0, now - self._play_ends_at)
        self._play_ends_at = max(now, self._play_ends_at) + duration_s
        self._delivered_at = now
        playback.played_s += duration_s
        playback.chunks, playback.frames = index + 1, playback.frames + header["frames"]
        if self._awaited_version and header["inputs_version"] >= self._awaited_version:
            playback.prompt_to_pixel_s.append(now - self._steered_at)
            self._awaited_version = 0
        loop = asyncio.get_running_loop()
        loop.call_later(self._play_ends_at - now, self._grant, loop, socket, index)

    def _grant(self, loop: asyncio.AbstractEventLoop, socket: ClientConnection, index: int) -> None:
        self._granted_at[index] = time.monotonic()
        self._sending = loop.create_task(_send(socket, {"type": "grant", "granted_through": index}))

    async def _steer(self, http: httpx.AsyncClient) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self._steer_every_s)
            turn += 1
            prompt = self._prompts[turn % len(self._prompts)]
            answer = await http.post(f"/v1/sessions/{self.playback.session}/prompt", json={"prompt": prompt})
            answer.raise_for_status()
            self._steered_at, self._awaited_version = time.monotonic(), answer.json()["inputs_version"]


async def _send(socket: ClientConnection, message: dict[str, Any]) -> None:
    try:
        await socket.send(json.dumps(message))
    except ConnectionClosed:
        return  # the receiving side reports it
