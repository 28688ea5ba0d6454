"""Sessions that go on elsewhere than where their state is, on the whole system, with two real workers."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import psutil
import pytest

from tests.fixtures.system import System
from tests.system.test_operations import WAIT_S, Viewer, ready_workers
from turboserve import Client, Session

pytestmark = pytest.mark.timeout(300)  # a system starts in seconds, but not on a machine under heavy load
PLACEMENT = {
    "policy-settings": '{"balance": false}',
    "unwatched-pause-s": 600,
    "resume-s": 30,
    "worker-silent-s": 600,  # who is killed here is missed before, since the autoscaler says so
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environ = {
        "TURBOSERVE_WORKER_DEVICE": "cpu",
        "TURBOSERVE_WORKER_MODEL": "tiny",
        "TURBOSERVE_WORKER_MODEL_LOADER": "tests.fixtures.tiny_model",
        "TURBOSERVE_WORKER_CAPACITY": "1",
    }
    system = System(
        tmp_path_factory.mktemp("resumes"), workers=2, environ=environ, settings={"placement": PLACEMENT}
    )
    system.start()
    yield system
    system.stop()


class Away(NamedTuple):
    """A session that is suspended at `home`, which another one has filled since; `other` has room for it."""

    session: Session
    viewer: Viewer
    home: str
    other: str


@pytest.fixture
async def client(system: System) -> AsyncIterator[Client]:
    async with Client(system.url) as client:
        await ready_workers(client, 2)
        yield client
        for session in await client.sessions(live=True):
            await (await client.watch(session.id)).close()


async def away(client: Client) -> Away:
    session = await client.open("slow red ball")
    viewer = Viewer(session)
    await viewer.until(lambda chunk: chunk.index >= 5)
    home = (await client.suspend(session.id)).worker
    beside = [await client.open("blue ball") for _ in range(2)]
    async with asyncio.timeout(WAIT_S):
        while "" in (workers := [(await client.get(one.id)).worker for one in beside]):
            await asyncio.sleep(0.05)
    [other] = set(workers) - {home}
    await beside[workers.index(other)].close()
    return Away(session, viewer, home, other)


async def test_it_goes_on_with_its_state(client: Client) -> None:
    session, viewer, home, other = await away(client)
    made = viewer.chunks[-1].index
    resumed = await client.restore(session.id)
    assert (resumed.status, resumed.worker, resumed.tier) == ("active", other, "device")
    names = [phase.name for phase in resumed.phases]
    assert names[:6] == ["place", "fetch", "propose", "reserve", "order", "carry"]
    await viewer.until(lambda chunk: chunk.index > made + 3)
    assert {chunk.worker for chunk in viewer.chunks if chunk.index > made + 2} == {other}
    async with asyncio.timeout(WAIT_S):
        while not any("handed over" in one.reason for one in await client.decisions(session=session.id)):
            await asyncio.sleep(0.05)
    async with asyncio.timeout(WAIT_S):
        while {w.copies for w in await client.workers() if w.id == home} != {1}:
            await asyncio.sleep(0.05)
    await viewer.leave()


def process_of(worker: str) -> psutil.Process:
    """Asked this way, psutil passes over processes that end meanwhile."""
    return next(p for p in psutil.process_iter(["cmdline"]) if worker in (p.info["cmdline"] or ()))


async def test_a_home_that_hangs_and_is_killed_then_is_done_without(client: Client) -> None:
    session, viewer, home, other = await away(client)
    process = process_of(home)
    process.send_signal(signal.SIGSTOP)
    resuming = asyncio.create_task(client.restore(session.id))
    async with asyncio.timeout(WAIT_S):
        while (await client.get(session.id)).phase != "resuming":
            await asyncio.sleep(0.02)
    process.kill()
    await viewer.until(lambda chunk: chunk.worker == other)
    assert (await resuming).worker in ("", other)
    assert viewer.chunks[-1].epoch > 2, "another epoch than the one that was to be handed over"
    await viewer.leave()


async def test_a_killed_worker_s_session_goes_on_before_anybody_missed_it(client: Client) -> None:
    session = await client.open("slow red ball")
    viewer = Viewer(session)
    await viewer.until(lambda chunk: chunk.index >= 2)
    worker = viewer.chunks[-1].worker
    process_of(worker).kill()
    await viewer.until(lambda chunk: chunk.worker != worker)
    assert viewer.chunks[-1].epoch > viewer.chunks[0].epoch
    await viewer.leave()
