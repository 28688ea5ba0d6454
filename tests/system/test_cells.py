"""Two cells side by side on one NATS, each with a placement and workers of its own, behind one gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.ids import cell_of
from tests.fixtures.gateway import GatewayProgram
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.placement_wire import World, placement_program
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S, until

EAST, WEST = CELLS = ("east", "west")


@pytest.fixture(scope="module")
def placements(
    nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Program]]:
    programs = {}
    for cell in CELLS:
        folder = tmp_path_factory.mktemp(cell)
        url = f"sqlite+aiosqlite:///{folder / 'db.sqlite'}"
        programs[cell] = placement_program(nats_server.url, url, folder, cell=cell)
        programs[cell].start(lambda: True)
    yield programs
    for program in programs.values():
        program.kill()


@pytest.fixture
def gateway(nats_server: NatsServer, tmp_path: Path) -> Iterator[GatewayProgram]:
    gateway = GatewayProgram(tmp_path, nats_server.url, cells=",".join(CELLS))
    gateway.start()
    yield gateway
    assert gateway.program.stop() == 0


@pytest.fixture
async def http(gateway: GatewayProgram) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=WAIT_S) as client:
        yield client


async def shown(http: httpx.AsyncClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The gateway's readiness, once it is like this."""
    async with asyncio.timeout(WAIT_S):
        while not holds(told := (await http.get("/readyz")).json()):
            await asyncio.sleep(0.02)
    return told


async def opened(http: httpx.AsyncClient, **body: object) -> str:
    answer = await http.post("/v1/sessions", json={"prompt": "a red ball"} | body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_sessions_go_where_there_is_room_and_are_found_by_their_ids(
    nats_server: NatsServer, placements: dict[str, Program], http: httpx.AsyncClient
) -> None:
    async with World(nats_server.url, EAST) as east, World(nats_server.url, WEST) as west:
        few, many = await east.worker("w-1", capacity=1), await west.worker("w-1", capacity=3)
        await east.ready(capacity=1)
        await west.ready(capacity=3)
        assert (await shown(http, lambda told: told["capacity"] == 4))["ready"]

        roomy = await opened(http)
        asked = await opened(http, cell=EAST)
        assert (cell_of(roomy), cell_of(asked)) == (WEST, EAST)
        await until(lambda: asked in few.copies and roomy in many.copies, "a copy in each cell")
        listed = (await http.get("/v1/sessions", params={"live": "true", "limit": 1})).json()
        rest = (await http.get("/v1/sessions", params={"live": "true", "cursor": listed["cursor"]})).json()
        assert [one["id"] for one in listed["sessions"] + rest["sessions"]] == [asked, roomy]
        workers = (await http.get("/v1/workers")).json()["workers"]
        assert {(one["cell"], one["id"]) for one in workers} == {(EAST, "w-1"), (WEST, "w-1")}

        paused = await http.post(f"/v1/sessions/{roomy}/pause")
        assert (paused.status_code, paused.json()["status"]) == (202, "paused")
        await many.until_copy(roomy, state="paused")
        assert few.copies[asked].state == "running"
        drained = await http.post("/v1/workers/w-1/drain", params={"force": "true", "cell": WEST})
        assert (drained.status_code, drained.json()["released"]) == (200, [roomy])
        assert few.state == "ready"
        unknown = await http.post("/v1/sessions", json={"prompt": "a red ball", "cell": "north"})
        assert (unknown.status_code, unknown.json()["error"]["hint"]) == (422, "there are east, west")
        for session in (roomy, asked):
            assert (await http.delete(f"/v1/sessions/{session}")).status_code == 204
        await east.clear()
        await west.clear()


async def test_one_cell_goes_on_without_the_other(
    nats_server: NatsServer, placements: dict[str, Program], http: httpx.AsyncClient
) -> None:
    async with World(nats_server.url, WEST) as west:
        await west.worker("w-1", capacity=2)
        await west.ready(capacity=2)
        placements[EAST].kill()
        told = await shown(http, lambda told: told["capacity"] == 2)
        assert (told["ready"], told["reasons"]) == (True, [])
        session = await opened(http)
        assert cell_of(session) == WEST
        listed = (await http.get("/v1/sessions", params={"live": "true"})).json()
        assert [one["id"] for one in listed["sessions"]] == [session]
        keyed = [
            (await http.post("/v1/sessions", json={"prompt": "x"}, headers={"Idempotency-Key": key}))
            for key in "abcdefgh"
        ]
        assert {answer.status_code for answer in keyed} == {201, 503}, "where the key says, and nowhere else"
