"""Operators' calls on the whole system, with two real workers."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.fixtures.system import System
from turboserve import Chunk, Client, Session
from turboserve.cli import main
from turboserve.messages import WorkerInfo

WAIT_S = 45.0
pytestmark = pytest.mark.timeout(300)  # a system starts in seconds, but not on a machine under heavy load


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """For a drained worker the autoscaler starts another one, so that the next test finds two again."""
    system = System(tmp_path_factory.mktemp("operations"), workers=2)
    system.start()
    yield system
    system.stop()


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


class Viewer:
    """Takes a session's chunks as they come, until told to leave."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.chunks: list[Chunk] = []
        self._came = asyncio.Condition()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for chunk in self.session:
            async with self._came:
                self.chunks.append(msgspec.structs.replace(chunk, media=b""))
                self._came.notify_all()

    async def until(self, seen: Callable[[Chunk], bool]) -> None:
        """Until the newest chunk is such a one."""
        async with asyncio.timeout(WAIT_S), self._came:
            await self._came.wait_for(lambda: bool(self.chunks) and seen(self.chunks[-1]))

    async def leave(self) -> None:
        """And close the session. What was seen has neither a gap nor a repeat."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.session.close()
        assert [chunk.index for chunk in self.chunks] == list(range(len(self.chunks)))
        epochs = [chunk.epoch for chunk in self.chunks]
        assert epochs == sorted(epochs)


async def test_a_session_is_moved_suspended_and_resumed_while_it_is_watched(system: System) -> None:
    async with Client(system.url) as client:
        known = await ready_workers(client, 2)
        session = await client.open("slow red ball")
        viewer = Viewer(session)
        await viewer.until(lambda chunk: chunk.index >= 2)
        source = (await client.get(session.id)).worker
        [target] = {worker.id for worker in known} - {source}

        moved = await command(system, "move", session.id, "--to", target, "--json")
        assert moved.exit_code == 0, moved.output
        told = json.loads(moved.stdout)
        assert (told["outcome"], told["source"], told["target"]) == ("moved", source, target)
        assert {"reserve", "carry"} <= {phase["name"] for phase in told["phases"]}
        await viewer.until(lambda chunk: chunk.worker == target)
        again = await command(system, "move", session.id, "--to", target)
        assert (again.exit_code, f"is on worker {target} already" in again.stderr) == (1, True)

        suspended = json.loads((await command(system, "suspend", session.id, "--json")).stdout)
        assert (suspended["status"], suspended["tier"], suspended["worker"]) == ("paused", "host", target)
        async with asyncio.timeout(WAIT_S):
            while {w.id: w.copies_by_tier.host for w in await client.workers()} != {source: 0, target: 1}:
                await asyncio.sleep(0.1)
        resumed = json.loads((await command(system, "resume", session.id, "--json")).stdout)
        assert (resumed["status"], resumed["tier"], resumed["worker"]) == ("active", "device", target)
        reached = viewer.chunks[-1].index
        await viewer.until(lambda chunk: chunk.index > reached + 3)

        assert (await command(system, "rung", session.id, "tiny-fast")).exit_code == 0
        await viewer.until(lambda chunk: chunk.rung == "tiny-fast")
        unknown = await command(system, "rung", session.id, "best")
        assert (unknown.exit_code, "there is no 'best'" in unknown.stderr) == (1, True)
        await viewer.leave()


async def test_a_drained_worker_s_sessions_go_on_where_they_were(system: System) -> None:
    async with Client(system.url) as client:
        known = await ready_workers(client, 2)
        opened = [await client.open("slow red ball") for _ in range(4)]
        viewers = [Viewer(session) for session in opened]
        for viewer in viewers:
            await viewer.until(lambda chunk: chunk.index >= 2)
        owners = {session.id: (await client.get(session.id)).worker for session in opened}
        # Of two workers one has at least two of four sessions.
        drained = max(owners.values(), key=list(owners.values()).count)
        there = [viewer for viewer in viewers if owners[viewer.session.id] == drained]
        watched, paused = there[0], there[1].session
        await paused.pause()

        shown = await command(system, "workers")
        assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [worker.id for worker in known]
        table = json.loads((await command(system, "workers", "--json")).stdout)
        assert {row["model"] for row in table} == {"tiny"}
        assert all(row["device"]["kind"] == "cpu" for row in table)

        done = json.loads((await command(system, "drain", drained, "--json")).stdout)
        assert (done["worker"], done["placed"]) == (drained, [])
        left = [*done["moved"], *done["released"], *done["queued"]]
        assert sorted(left) == sorted(viewer.session.id for viewer in there)
        assert watched.session.id in done["moved"]
        assert [phase["name"] for phase in done["phases"]] == ["move", "place", "start", "release", "stop"]
        await watched.until(lambda chunk: chunk.worker not in ("", drained))

        await paused.resume()
        assert (await client.get(paused.id)).worker not in ("", drained)
        await gone(client, drained)
        refused = await command(system, "drain", drained)
        assert refused.exit_code == 1
        assert f"there is no worker '{drained}'" in refused.stderr
        for viewer in viewers:
            await viewer.leave()
