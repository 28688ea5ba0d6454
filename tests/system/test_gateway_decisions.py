"""Decisions as a real gateway and the command show them, from a real log."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result

from services.placement.policies import registry
from services.placement.policies.view import Decision, Memory, Session, View, Worker
from shared.bus import Bus
from shared.contracts.decisions import DecisionRecord
from shared.decision_log import Decided, DecisionLog, make_record
from shared.ids import DEFAULT_CELL, new_decision_id, new_session_id
from tests.fixtures.gateway import GatewayProgram
from turboserve.cli import main

pytestmark = pytest.mark.anyio

SESSION = new_session_id(DEFAULT_CELL)
VIEW = View(
    3.0,
    (Worker("w-1", "cpu", "ready", 2, 2, (0.0, 0.1, 0.2)),),
    (Session(SESSION, active=True, since_s=1.0),),
)
POLICY: Any = registry.named("turboserve", {"longest_wait_s": 30.0})
DECISION = POLICY.decide(VIEW, Memory())


def record(decision: Decision, reason: str, *sessions: str) -> DecisionRecord:
    given = Decided(
        new_decision_id("placement"),
        1_800_000_000.5,
        "turboserve",
        reason,
        list(sessions),
        ["w-1"],
        POLICY,
        VIEW,
        Memory(),
        decision,
    )
    return make_record(given, "placement", "placement-1")


async def kept(nats_url: str, *records: DecisionRecord) -> None:
    bus = Bus(nats_url, "stage")
    await bus.connect(30)
    log = DecisionLog(bus, DEFAULT_CELL, timeout_s=30)
    for one in records:
        await log.put(one)
    await bus.close()


async def command(gateway: GatewayProgram, *arguments: str) -> Result:
    given = ["explain", *arguments, "--url", gateway.url]
    return await asyncio.to_thread(CliRunner().invoke, main, given, env={"COLUMNS": "60"})


async def test_decisions_are_listed_shown_and_taken_again(gateway: GatewayProgram, nats_url: str) -> None:
    wrong = msgspec.structs.replace(DECISION, rho_max=0.125)
    right, other = record(DECISION, "placed 1", SESSION), record(wrong, "a wonder")
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        assert (await http.get("/v1/decisions")).json() == {"decisions": []}
        unknown = await http.get(f"/v1/decisions/{right.id}")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "decision_not_found")
        assert (await http.get("/v1/decisions?limit=0")).status_code == 422
        await kept(nats_url, right, other)
        listed = (await http.get("/v1/decisions")).json()["decisions"]
        assert [one["id"] for one in listed] == [other.id, right.id]
        of_session = (await http.get("/v1/decisions", params={"session": SESSION})).json()["decisions"]
        shown = (await http.get(f"/v1/decisions/{right.id}")).json()
        document = (await http.get("/openapi.json")).json()
    assert of_session == listed[1:]
    assert shown["about"] == of_session[0]
    assert (
        shown["about"].items()
        >= {"service": "placement", "policy": "turboserve", "reason": "placed 1"}.items()
    )
    assert msgspec.convert(shown["view"], View) == VIEW
    assert msgspec.convert(shown["decision"], Decision) == DECISION
    assert shown["settings"]["longest_wait_s"] == 30.0
    assert {"/v1/decisions", "/v1/decisions/{decision_id}"} <= document["paths"].keys()

    told = await command(gateway, right.id, "--again")
    assert told.exit_code == 0, told.output
    assert f"place {SESSION} on w-1" in told.output
    assert "decided again: the same answer" in told.output
    differs = await command(gateway, other.id, "--again")
    assert (differs.exit_code, "rho_max: was 0.125, is now 0.5" in differs.output) == (1, True), (
        differs.output
    )
    listing = await command(gateway, "--again")
    assert listing.exit_code == 1
    lines = [line.split() for line in listing.output.splitlines()]
    assert [line[1:4] for line in lines[1:]] == [
        [other.id, "turboserve", "another"],
        [right.id, "turboserve", "the"],
    ]
    whole = json.loads((await command(gateway, right.id, "--again", "--json")).output)
    assert (whole["record"]["view"], whole["again"]["differences"]) == (shown["view"], [])
    assert "no decision about main_x is kept" in (await command(gateway, "--session", "main_x")).output
    assert "there is no decision 'p-1'" in (await command(gateway, "p-1")).output
