"""Operators' calls on the whole system, with two real workers."""

import asyncio
import json
from typing import Any

from click.testing import CliRunner

from tests.fixtures.system import StartSystem, System
from turboserve import Client
from turboserve.cli import main
from turboserve.messages import WorkerInfo

WAIT_S = 45.0


async def command(system: System, *arguments: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--url", system.url])


async def ready_workers(client: Client, count: int) -> list[WorkerInfo]:
    async with asyncio.timeout(WAIT_S):
        while True:
            ready = [worker for worker in await client.workers() if worker.state == "ready"]
            if len(ready) >= count:
                return ready
            await asyncio.sleep(0.1)


async def gone(client: Client, worker: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while worker in {known.id for known in await client.workers()}:
            await asyncio.sleep(0.1)


async def test_a_drained_worker_s_sessions_go_on_where_they_were(start_system: StartSystem) -> None:
    system = start_system(workers=2)
    async with Client(system.url) as client:
        known = await ready_workers(client, 2)
        opened = [await client.open("a red ball") for _ in range(4)]
        infos = [await client.get(session.id) for session in opened]
        drained_worker = infos[0].worker
        watched = opened[0]
        [paused] = [info.id for info in infos[1:] if info.worker == drained_worker]
        await next(s for s in opened if s.id == paused).pause()

        shown = await command(system, "workers")
        assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [worker.id for worker in known]
        table = json.loads((await command(system, "workers", "--json")).stdout)
        assert {row["model"] for row in table} == {"tiny"}
        assert all(row["device"]["kind"] == "cpu" for row in table)

        seen = []
        async for chunk in watched:
            seen.append((chunk.index, chunk.worker == drained_worker, chunk.epoch))
            if chunk.index == 2:
                done = json.loads((await command(system, "drain", drained_worker, "--json")).stdout)
            if not seen[-1][1] and chunk.index > 4:
                break
        assert [index for index, _, _ in seen] == list(range(len(seen)))
        assert (seen[0], seen[-1][1:]) == ((0, True, 1), (False, 2))
        assert (done["moved"], done["queued"], done["released"]) == ([watched.id], [], [paused])
        assert [phase["name"] for phase in done["phases"]] == ["place", "start", "release", "stop"]

        await next(s for s in opened if s.id == paused).resume()
        assert (await client.get(paused)).worker not in ("", drained_worker)
        await gone(client, drained_worker)
        refused = await command(system, "drain", drained_worker)
        assert refused.exit_code == 1
        assert f"there is no worker '{drained_worker}'" in refused.stderr
