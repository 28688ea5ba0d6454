"""What operators ask of a real gateway, over HTTP and by the command, with placement by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from click.testing import CliRunner, Result

from shared.bus import Refused
from shared.contracts.fleet import DeviceReport, PhaseTime, WorkerLoad
from shared.contracts.moves import MoveSession, SessionMoved, SessionStowed, StowSession
from shared.ids import DEFAULT_CELL, new_session_id
from tests.fixtures.gateway import GatewayProgram, Stage, ready
from turboserve import Client
from turboserve.cli import main
from turboserve.errors import NotPossible, SessionEnded, UnknownSession, UnknownWorker

pytestmark = pytest.mark.anyio

SESSION = new_session_id(DEFAULT_CELL)
PHASES = [PhaseTime("reserve", 0.0012), PhaseTime("carry", 1.5), PhaseTime("source link", 0.4)]
MOVED = SessionMoved(SESSION, "w-1", "w-2", "moved", "", 0.0041, 3_618_525_184, PHASES)
STAYED = SessionMoved(SESSION, "w-1", "w-2", "stayed", "the target fell silent", phases=PHASES[:1])
PLACED = SessionMoved(SESSION, "w-1", "w-2", "placed")
LOST = SessionMoved(SESSION, "w-1", "w-2", "lost", "w-2 died with it")
SUSPENDED = SessionStowed(SESSION, "paused", "w-1", "host", 64_000_000, PHASES[:1])
RESTORED = SessionStowed(SESSION, "active", "w-1", "device", 64_000_000, PHASES[:1])


@pytest.fixture
async def http(gateway: GatewayProgram, stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        await ready(client, stage)
        yield client


async def command(gateway: GatewayProgram, *arguments: str) -> Result:
    given = [*arguments, "--url", gateway.url]
    return await asyncio.to_thread(CliRunner().invoke, main, given, env={"COLUMNS": "120"})


async def test_a_move_is_told_phase_by_phase(http: httpx.AsyncClient, stage: Stage) -> None:
    stage.outcomes[MoveSession] = MOVED
    path = f"/v1/sessions/{SESSION}/move"
    answers = [
        await http.post(path, json={"to": "w-2"}),
        await http.post(path, json={}),
        await http.post(path),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert stage.asked == [MoveSession(SESSION, "w-2"), MoveSession(SESSION), MoveSession(SESSION)]
    assert answers[0].json() == {
        "session": SESSION,
        "source": "w-1",
        "target": "w-2",
        "outcome": "moved",
        "why": "",
        "pause_s": 0.0041,
        "sent_bytes": 3_618_525_184,
        "phases": [
            {"name": "reserve", "duration_s": 0.0012},
            {"name": "carry", "duration_s": 1.5},
            {"name": "source link", "duration_s": 0.4},
        ],
    }


async def test_a_session_is_suspended_and_restored(http: httpx.AsyncClient, stage: Stage) -> None:
    stage.outcomes[StowSession] = SUSPENDED
    suspended = await http.post(f"/v1/sessions/{SESSION}/suspend")
    assert (suspended.status_code, suspended.json()) == (
        200,
        {
            "session": SESSION,
            "status": "paused",
            "worker": "w-1",
            "tier": "host",
            "bytes": 64_000_000,
            "phases": [{"name": "reserve", "duration_s": 0.0012}],
        },
    )
    stage.outcomes[StowSession] = RESTORED
    assert (await http.post(f"/v1/sessions/{SESSION}/restore")).json()["tier"] == "device"


REFUSALS = {
    "session_not_found": (404, UnknownSession),
    "worker_not_found": (404, UnknownWorker),
    "session_ended": (409, SessionEnded),
    "already_there": (409, NotPossible),
    "busy_moving": (409, NotPossible),
    "incompatible": (409, NotPossible),
    "no_slot": (409, NotPossible),
    "not_owned": (409, NotPossible),
    "worker_not_ready": (409, NotPossible),
}


async def test_refusals_keep_their_code_and_become_exceptions(
    http: httpx.AsyncClient, gateway: GatewayProgram, stage: Stage
) -> None:
    async with Client(gateway.url) as client:
        for code, (status, kind) in REFUSALS.items():
            stage.outcomes[MoveSession] = Refused(code, "it can't be", "try another")
            refused = await http.post(f"/v1/sessions/{SESSION}/move", json={"to": "w-2"})
            error = {"code": code, "message": "it can't be", "hint": "try another"}
            assert (refused.status_code, refused.json()) == (status, {"error": error})
            with pytest.raises(kind):
                await client.move(SESSION, "w-2")


async def test_a_silent_worker_is_asked_once(gateway: GatewayProgram, stage: Stage) -> None:
    stage.outcomes[StowSession] = Refused("worker_silent", "w-1 doesn't answer", "drain it")
    shown = await command(gateway, "suspend", SESSION)
    assert (shown.exit_code, shown.stderr) == (1, "Error: w-1 doesn't answer\ndrain it\n")
    assert len(stage.asked) == 1


async def test_the_command_tells_a_move(gateway: GatewayProgram, stage: Stage) -> None:
    stage.outcomes[MoveSession] = MOVED
    shown = await command(gateway, "move", SESSION, "--to", "w-2")
    assert (shown.exit_code, stage.asked) == (0, [MoveSession(SESSION, "w-2")])
    first, *rows = shown.stdout.splitlines()
    assert first == f"{SESSION} moved from w-1 to w-2 with its state; for 4.1 ms nobody could go on with it"
    assert rows == [
        "  reserve          1.2 ms",
        "  carry            1.50 s",
        "  in all           1.50 s   3.62 GB sent",
        "  within that, as the workers tell it",
        "    source link  400.0 ms",
    ]
    told = json.loads((await command(gateway, "move", SESSION, "--json")).stdout)
    assert (told["outcome"], told["phases"][1]) == ("moved", {"name": "carry", "duration_s": 1.5})


async def test_a_move_that_came_to_nothing_fails_in_words(gateway: GatewayProgram, stage: Stage) -> None:
    stage.outcomes[MoveSession] = STAYED
    for given in ([], ["--json"]):
        shown = await command(gateway, "move", SESSION, *given)
        assert shown.exit_code == 1
        assert "the target fell silent" in shown.stdout
    stage.outcomes[MoveSession] = PLACED
    placed = await command(gateway, "move", SESSION)
    assert (placed.exit_code, "placed on w-2 without a state" in placed.stdout) == (0, True)
    stage.outcomes[MoveSession] = LOST
    lost = await command(gateway, "move", SESSION)
    assert (lost.exit_code, "w-2 died with it" in lost.stdout) == (1, True)


STOWED = [
    ("suspend", SUSPENDED, 0, "is suspended: its state is in the host memory of w-1"),
    ("suspend", SessionStowed(SESSION, "paused", "", "none"), 0, "is paused; no worker has a state"),
    ("suspend", SessionStowed(SESSION, "paused", "w-1", "device"), 1, "still in the device memory of w-1"),
    ("resume", RESTORED, 0, "goes on at w-1 as it was"),
    ("resume", SessionStowed(SESSION, "queued", "", "none"), 1, "waits in the queue until a worker has room"),
    ("resume", SessionStowed(SESSION, "active", "w-2", "none"), 0, "rebuilt or begins anew"),
    ("resume", SessionStowed(SESSION, "paused", "w-1", "host"), 1, "is paused: it was not resumed"),
]


async def test_the_command_tells_where_a_state_is(gateway: GatewayProgram, stage: Stage) -> None:
    for name, outcome, code, words in STOWED:
        stage.outcomes[StowSession] = outcome
        shown = await command(gateway, name, SESSION)
        assert (shown.exit_code, words in shown.stdout) == (code, True), (name, shown.stdout)
        assert json.loads((await command(gateway, name, SESSION, "--json")).stdout)["tier"] == outcome.tier


async def test_bad_arguments_are_sentences(gateway: GatewayProgram, stage: Stage) -> None:
    for name in ("move", "suspend", "resume"):
        unknown = await command(gateway, name, "nonsense")
        assert (unknown.exit_code, "there is no session 'nonsense'" in unknown.stderr) == (1, True)
        assert (await command(gateway, name)).exit_code == 2
        assert (await command(gateway, name, SESSION, "--nonsense")).exit_code == 2
    assert not stage.asked


async def test_the_command_changes_a_rung(
    http: httpx.AsyncClient, gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    changed = await command(gateway, "rung", session, "standard")
    assert (changed.exit_code, stage.sessions[session].rung) == (0, "standard")
    assert "at rung standard, before it was the model's default" in changed.stdout
    unknown = await command(gateway, "rung", session, "best")
    assert (unknown.exit_code, "there is no 'best'" in unknown.stderr) == (1, True)
    assert "there is no session" in (await command(gateway, "rung", "nonsense", "standard")).stderr
    opened = await command(gateway, "stream", "--prompt", "x", "--rung", "best")
    assert (opened.exit_code, "there is no 'best'" in opened.stderr) == (1, True)


async def test_workers_are_shown_with_what_their_devices_tell(
    http: httpx.AsyncClient, gateway: GatewayProgram, stage: Stage
) -> None:
    async def listed() -> dict[str, object]:
        await stage.say_load()
        [worker] = (await http.get("/v1/workers")).json()["workers"]
        return worker

    expected: dict[str, object] = {
        "id": "w-1",
        "state": "ready",
        "model": "",
        "active": 0,
        "capacity": 4,
        "copies": 0,
        "paused": 0,
        "copies_by_tier": {"device": 0, "host": 0},
        "transports": [],
        "device": None,
        "slots": 0,
        "latency_s": [],
        "node": "",
        "cell": DEFAULT_CELL,
    }
    async with asyncio.timeout(20):
        while await listed() != expected:
            pass
    device = DeviceReport("H100", "cuda", 80_000_000_000, 20_000_000_000, 0.5, 512.4, 61.0)
    counts = {"paused": 2, "on_device": 3, "on_host": 1, "transports": ["nccl", "tcp"]}
    stage.worker = WorkerLoad("w-1", "ready", 4, 0, 0, "tiny", device, **counts)  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        while (shown := await listed())["device"] is None:
            pass
    assert shown["copies_by_tier"] == {"device": 3, "host": 1}
    assert (shown["paused"], shown["transports"]) == (2, ["nccl", "tcp"])
    table = (await command(gateway, "workers")).stdout.splitlines()
    assert [line.split() for line in table] == [
        "worker state model active paused suspended device memory busy power temp".split(),
        "w-1 ready tiny 0/4 2 1 H100 20.0/80.0 GB 50% 512 W 61 °C".split(),
    ]


async def test_without_placement_a_drain_says_where_to_look(http: httpx.AsyncClient) -> None:
    drained = await http.post("/v1/workers/w-1/drain")
    assert (drained.status_code, drained.json()["error"]["code"]) == (503, "placement_away")
    assert "GET /v1/sessions" in drained.json()["error"]["hint"]
    wrong = await http.post("/v1/workers/w-1/drain", params={"force": "perhaps"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "invalid_field")
