"""How long a user waits for the first chunk after resuming: at home, handed over, rebuilt elsewhere.

`python -m bench.resumes [--times 15]`: medians on this machine, with two workers of one place each, by
default of the shipped model. Whatever `TURBOSERVE_WORKER_…` says goes for them. A rebuild is had by giving a
hand-over no time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable

from bench.live.system import up
from turboserve import Client, Session

_WAIT_S = 60.0
_QUIET_S = 0.5
_SYSTEM = {
    "TURBOSERVE_WORKER_DEVICE": "cpu",
    "TURBOSERVE_WORKER_CAPACITY": "1",
    "TURBOSERVE_PLACEMENT_POLICY_SETTINGS": '{"balance": false}',
    "TURBOSERVE_PLACEMENT_UNWATCHED_PAUSE_S": "600",
}
_CASES = {"at home": "", "handed over": "", "rebuilt": "0.000001"}
"""With how much time a hand-over has, "" for the usual."""


class Seen:
    """A session's chunks, as a viewer gets them, with the time of each."""

    def __init__(self, session: Session) -> None:
        self.came_at: list[float] = []
        self._task = asyncio.create_task(self._watch(session))

    async def _watch(self, session: Session) -> None:
        async for _ in session:
            self.came_at.append(time.monotonic())

    async def until(self, chunks: int) -> None:
        await _until(lambda: len(self.came_at) >= chunks)

    async def all(self) -> int:
        """Of a paused session: how many there are."""
        while time.monotonic() - self.came_at[-1] < _QUIET_S:
            await asyncio.sleep(0.05)
        return len(self.came_at)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not holds():
            await asyncio.sleep(0.002)


async def _filled(client: Client, home: str) -> list[Session]:
    """Another session takes the place at `home`, and the other worker has room."""
    beside = [await client.open("blue ball") for _ in range(2)]
    async with asyncio.timeout(_WAIT_S):
        while "" in (workers := [(await client.get(one.id)).worker for one in beside]):
            await asyncio.sleep(0.02)
    elsewhere = next(n for n, worker in enumerate(workers) if worker != home)
    await beside.pop(elsewhere).close()
    return beside


async def _once(client: Client, *, elsewhere: bool) -> float:
    """Seconds from the call to the first chunk made after it."""
    session = await client.open("red ball")
    seen = Seen(session)
    await seen.until(5)
    home = (await client.suspend(session.id)).worker
    made = await seen.all()
    beside = await _filled(client, home) if elsewhere else []
    started = time.monotonic()
    await session.resume()
    await seen.until(made + 1)
    took_s = seen.came_at[made] - started
    assert ((await client.get(session.id)).worker != home) == elsewhere, "not where it was to go on"
    await seen.leave()
    for one in [session, *beside]:
        await one.close()
    return took_s


async def _measure(url: str, times: int, *, elsewhere: bool) -> list[float]:
    async with Client(url) as client:
        async with asyncio.timeout(_WAIT_S):
            while sum(worker.state == "ready" for worker in await client.workers()) < 2:
                await asyncio.sleep(0.1)
        await _once(client, elsewhere=elsewhere)
        return [await _once(client, elsewhere=elsewhere) for _ in range(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=15)
    times = parser.parse_args().times
    for case, resume_s in _CASES.items():
        os.environ |= _SYSTEM | ({"TURBOSERVE_PLACEMENT_RESUME_S": resume_s} if resume_s else {})
        with up("turboserve", 2, 2) as system:
            took_s = asyncio.run(_measure(system.url, times, elsewhere=case != "at home"))
        quick, middle, slow = min(took_s), statistics.median(took_s), max(took_s)
        print(f"{case:12} {middle * 1000:6.0f} ms (from {quick * 1000:.0f} to {slow * 1000:.0f})", flush=True)


if __name__ == "__main__":
    main()
