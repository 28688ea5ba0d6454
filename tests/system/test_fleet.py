"""The loop closed on a real system: demand makes the fleet grow, and what is no longer needed is emptied and
given back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from tests.fixtures.system import StartSystem
from turboserve import Client
from turboserve.errors import UnknownDecision, Unreachable
from turboserve.messages import FleetInfo

pytestmark = pytest.mark.anyio

T = TypeVar("T")
DEADLINE_S = 60.0
# Sized for the load of now, and hardly held, so that the test needn't wait for either.
HASTY = '{"forecast": false, "hold_boots": 0.1}'


@pytest.mark.timeout(300)
async def test_the_fleet_grows_with_demand_and_gives_back_what_it_has_emptied(
    start_system: StartSystem,
) -> None:
    system = start_system(
        environ={"TURBOSERVE_WORKER_CAPACITY": "1"},
        settings={
            "autoscaler": {"maximum": 2, "policy_settings": HASTY},
            "placement": {"unwatched_pause_s": 600},
        },
    )
    async with Client(system.url) as client:
        first, second = await client.open("a red ball"), await client.open("a blue ball")
        places = await eventually(lambda: _places(client, first.id, second.id))
        assert len(set(places)) == 2, "a worker carries one session"
        await second.pause()
        left = await eventually(lambda: _only_worker(client))
        assert left.desired == 1
        explained = await eventually(lambda: client.decision(left.decision))
        assert explained.about.service == "autoscaler"
        await first.close()
        await second.resume()
        assert await eventually(lambda: _places(client, second.id)) == [left.workers[0].worker]


async def eventually(find: Callable[[], Awaitable[T | None]]) -> T:
    """What is found, once it is not None. A service may be away for a moment, a record be kept a little
    later.
    """
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                if (found := await find()) is not None:
                    return found
            except (Unreachable, UnknownDecision):
                pass
            await asyncio.sleep(0.05)


async def _places(client: Client, *ids: str) -> list[str] | None:
    """The workers of these sessions, once they all have one."""
    sessions = [await client.get(id_) for id_ in ids]
    active = all(session.status == "active" and session.worker for session in sessions)
    return [session.worker for session in sessions] if active else None


async def _only_worker(client: Client) -> FleetInfo | None:
    fleet = await client.fleet()
    return fleet if [worker.state for worker in fleet.workers] == ["running"] else None
