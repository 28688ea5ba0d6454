"""The fleet's size over HTTP at a real gateway, with the autoscaler by script."""

from __future__ import annotations

import asyncio
import time

import httpx
import msgspec
import pytest

from shared.bus import Meta, Refused
from shared.contracts.fleet import FleetPlan, FleetWorker, SetFleet
from shared.contracts.subjects import FLEET_PLAN, SET_FLEET
from shared.ids import DEFAULT_CELL
from tests.fixtures.gateway import GatewayProgram, Stage

pytestmark = pytest.mark.anyio

WORKERS = [FleetWorker("w-1", "running"), FleetWorker("w-2", "exited", 1, "exit code 1")]
PLAN = FleetPlan("a-1", 2, 1, 4, "9 active", WORKERS, time.time(), ["w-1"], "turboserve", "a-9", 1)


async def test_the_fleet_is_shown_and_set(gateway: GatewayProgram, stage: Stage) -> None:
    asked: list[SetFleet] = []

    async def answer(told: SetFleet, _: Meta) -> FleetPlan:
        asked.append(told)
        if told.minimum == 9:
            raise Refused("invalid_field", "the minimum, 9, …", "nothing was changed")
        return msgspec.structs.replace(PLAN, frozen=True, would="drain w-1")

    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        silent = await http.get("/v1/fleet")
        assert (silent.status_code, silent.json()["error"]["code"]) == (503, "autoscaler_away")
        alone = await http.patch("/v1/fleet", json={})
        assert (alone.status_code, alone.json()["error"]["code"]) == (503, "autoscaler_away")
        await stage.bus.serve(SET_FLEET, answer, cell=DEFAULT_CELL)
        await stage.bus.flush()
        shown = (await http.patch("/v1/fleet", json={"frozen": True, "spare": 1})).json()
        assert asked == [SetFleet(frozen=True, spare=1)]
        assert (shown["frozen"], shown["would"], shown["maximum"]) == (True, "drain w-1", 4)
        refused = await http.patch("/v1/fleet", json={"minimum": 9})
        assert (refused.status_code, refused.json()["error"]["message"]) == (422, "the minimum, 9, …")
        for wrong in ({"minimum": "two"}, {"minimun": 2}, {"minimum": 10**20}):
            assert (await http.patch("/v1/fleet", json=wrong)).status_code == 422
        async with asyncio.timeout(30):
            while (told := await http.get("/v1/fleet")).status_code != 200:
                await stage.bus.publish(FLEET_PLAN.at(cell=DEFAULT_CELL), PLAN)
    assert told.json() == {
        "autoscaler": "a-1",
        "policy": "turboserve",
        "desired": 2,
        "minimum": 1,
        "maximum": 4,
        "spare": 1,
        "frozen": False,
        "dry_run": False,
        "reason": "9 active",
        "would": "",
        "decision": "a-9",
        "draining": ["w-1"],
        "workers": [
            {"worker": "w-1", "state": "running", "restarts": 0, "detail": ""},
            {"worker": "w-2", "state": "exited", "restarts": 1, "detail": "exit code 1"},
        ],
    }
