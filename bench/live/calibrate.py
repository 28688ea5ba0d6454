"""What the simulator must know of a live system before it can say how a trace will go there: how quick its
workers are, as they report it and as sessions see it, and how long one takes to boot beside one that serves.
"""

from __future__ import annotations

import asyncio

import httpx
import msgspec

from bench.live.crowd import measured, see
from bench.sim.profiles import PROFILES, Gpu, Profile
from services.worker.residency import SPARE_SLOTS
from turboserve.client import Client
from turboserve.messages import WorkerInfo

_BATCHES = (1, 2, 4, 8)
"""What a worker measures. One that doesn't pay is told as several smaller ones, and isn't chosen again."""

_BOOT_S = 180.0
_LOOK_S = 0.2


class Calibration(msgspec.Struct, frozen=True):
    """`boot_s`: of a worker ordered while the trace plays. `learned_boot_s`: of the one before, which is what
    the autoscaler expects by then, and for how long it has watched an empty system; None: the same.
    """

    profile: Profile
    boot_s: float
    learned_boot_s: float | None = None


async def calibrate(url: str, first_boot_s: float) -> Calibration:
    """On a system with one ready worker that may have two. Takes a minute and three quarters. Raises
    TurboserveError, TimeoutError.
    """
    async with Client(url) as client:
        [worker] = await _ready(client, 1)
        await _limit(url, 1)

        async def second() -> None:
            await _limit(url, 2)
            await _ready(client, 2)

        seen = await see(url, second)
        [later] = [one for one in await _ready(client, 2) if one.id != worker.id]
        profile = measured(profile_of(worker), seen, curve_of(later))
        return Calibration(profile, round(seen.boot_s, 1), round(first_boot_s, 1))


async def _limit(url: str, workers: int) -> None:
    """So many, whatever the demand."""
    async with httpx.AsyncClient(base_url=url) as http:
        limits = {"minimum": workers, "maximum": workers}
        (await http.patch("/v1/fleet", json=limits)).raise_for_status()


async def _ready(client: Client, count: int) -> list[WorkerInfo]:
    """The ready workers, once they are so many and have told their latencies."""
    async with asyncio.timeout(_BOOT_S):
        while True:
            ready = [w for w in await client.workers() if w.state == "ready" and w.latency_s]
            if len(ready) == count:
                return ready
            await asyncio.sleep(_LOOK_S)


def profile_of(worker: WorkerInfo) -> Profile:
    """Everything but its pace is that of the simulator's `sprites-cpu`."""
    known, slots = PROFILES["sprites-cpu"], worker.capacity + SPARE_SLOTS
    gpu = Gpu(known.gpus[0].kind, curve_of(worker), slots=slots, most_active=worker.capacity)
    return msgspec.structs.replace(
        known, name="measured", gpus=(gpu,), measured="reported by a worker as it started"
    )


def curve_of(worker: WorkerInfo) -> tuple[tuple[int, float], ...]:
    """What it tells: (sessions, seconds) of one chunk of each."""
    told = worker.latency_s
    return tuple((rows, told[rows]) for rows in _BATCHES if rows < len(told))
