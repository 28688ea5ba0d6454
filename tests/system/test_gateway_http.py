"""The HTTP calls of a real gateway, good and bad, with placement by script."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from shared.contracts import subjects
from shared.ids import DEFAULT_CELL, new_session_id
from tests.fixtures.gateway import START, GatewayProgram, Stage, ready
from turboserve import Client
from turboserve.errors import NoCapacity

pytestmark = pytest.mark.anyio

FOREIGN = {"Origin": "http://elsewhere.example"}
LONG = b'{"prompt": "' + b"x" * 70_000 + b'"}'


@pytest.fixture
async def http(gateway: GatewayProgram, stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway that knows its fleet."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as client:
        await ready(client, stage)
        yield client


async def test_a_session_from_opening_to_the_end(http: httpx.AsyncClient, stage: Stage) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"prompt": " a red circle ", "model": "tiny", "seed": 3, "max_chunks": 9, "rung": "standard"}
    opened = await http.post("/v1/sessions", json=body, headers=key)
    assert opened.status_code == 201
    session = opened.json()
    path = f"/v1/sessions/{session['id']}"
    expected = {
        "status": "active",
        "phase": "generating",
        "model": "tiny",
        "prompt": "a red circle",
        "seed": 3,
    }
    assert session.items() >= (expected | {"max_chunks": 9, "rung": "standard", "reason": ""}).items()
    assert session["stream_url"] == f"ws://127.0.0.1:{http.base_url.port}{path}/stream"
    assert session["warnings"] == ["unknown word: zyx"]
    assert (await http.post("/v1/sessions", json=body, headers=key)).json()["id"] == session["id"]

    shown = await http.get(path)
    assert shown.status_code == 200
    assert shown.json() == session
    steered = await http.post(f"{path}/prompt", json={"prompt": "a blue square"})
    assert (steered.status_code, steered.json()) == (
        202,
        {"from_chunk": 5, "inputs_version": 2, "warnings": []},
    )
    assert (await http.get(path)).json()["prompt"] == "a blue square"
    paused = await http.post(f"{path}/pause")
    assert (paused.status_code, paused.json()["status"], paused.json()["reason"]) == (202, "paused", "asked")
    resumed = await http.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "active")
    for _ in range(2):
        closed = await http.delete(path)
        assert (closed.status_code, closed.content) == (204, b"")
    for call in ("prompt", "pause", "resume"):
        refused = await http.post(f"{path}/{call}", json={"prompt": "a cat"} if call == "prompt" else None)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_ended")


async def test_sessions_are_listed_in_pages(http: httpx.AsyncClient, stage: Stage) -> None:
    ids = [stage.new_session() for _ in range(3)]
    await http.delete(f"/v1/sessions/{ids[1]}")
    first = (await http.get("/v1/sessions", params={"limit": 2})).json()
    rest = (await http.get("/v1/sessions", params={"limit": 2, "cursor": first["cursor"]})).json()
    assert [session["id"] for session in first["sessions"] + rest["sessions"]] == ids[::-1]
    assert rest["cursor"] == ""
    live = (await http.get("/v1/sessions", params={"live": "true"})).json()
    assert [session["id"] for session in live["sessions"]] == [ids[2], ids[0]]


BAD: list[tuple[str, str, dict[str, Any], int, str, str]] = [
    ("POST", "", {"json": {"prompt": ""}}, 422, "prompt_empty", "prompt"),
    ("POST", "", {"json": {"prompt": "x" * 41}}, 422, "prompt_too_long", "40"),
    ("POST", "", {"json": {"prompt": 5}}, 422, "invalid_field", "prompt"),
    ("POST", "", {"json": {"prompt": None}}, 422, "invalid_field", "prompt"),
    ("POST", "", {"json": {}}, 422, "invalid_field", "prompt"),
    ("POST", "", {"json": []}, 422, "invalid_field", "object"),
    ("POST", "", {"json": {"prompt": "x", "colour": "red"}}, 422, "invalid_field", "colour"),
    ("POST", "", {"json": {"prompt": "x", "seed": "5"}}, 422, "invalid_field", "seed"),
    ("POST", "", {"json": {"prompt": "x", "priority": 11}}, 422, "invalid_field", "priority"),
    ("POST", "", {"json": {"prompt": "x", "max_chunks": 1.5}}, 422, "invalid_field", "max_chunks"),
    ("POST", "", {"json": {"prompt": "x", "model": "huge"}}, 422, "unknown_model", "huge"),
    ("POST", "", {"json": {"prompt": "x", "rung": "best"}}, 422, "unknown_rung", "best"),
    ("POST", "", {"content": b"{nonsense"}, 400, "malformed_json", "JSON"),
    ("POST", "", {"content": b""}, 400, "malformed_json", "body"),
    ("POST", "", {"content": b'{"prompt": "\xff"}'}, 400, "malformed_json", "JSON"),
    ("POST", "", {"content": b'{"prompt": "x"' + b"[" * 20_000}, 400, "malformed_json", "JSON"),
    ("POST", "", {"content": LONG}, 413, "body_too_large", "large"),
    (
        "POST",
        "",
        {"json": {"prompt": "x"}, "headers": {"Idempotency-Key": "x" * 129}},
        422,
        "invalid_field",
        "Key",
    ),
    ("POST", "", {"json": {"prompt": "x"}, "headers": FOREIGN}, 403, "origin_not_allowed", "elsewhere"),
    ("GET", "?limit=0", {}, 422, "invalid_field", "limit"),
    ("GET", "?limit=many", {}, 422, "invalid_field", "limit"),
    ("GET", "?live=perhaps", {}, 422, "invalid_field", "live"),
    ("GET", "/nonsense", {}, 404, "session_not_found", "nonsense"),
    ("GET", "/" + new_session_id(DEFAULT_CELL), {}, 404, "session_not_found", "no session"),
    ("GET", "/" + new_session_id("elsewhere"), {}, 404, "session_not_found", "no session"),
    ("DELETE", "/" + new_session_id(DEFAULT_CELL), {}, 404, "session_not_found", "no session"),
    (
        "POST",
        f"/{new_session_id(DEFAULT_CELL)}/prompt",
        {"json": {"prompt": 1}},
        422,
        "invalid_field",
        "prompt",
    ),
    ("POST", f"/{new_session_id(DEFAULT_CELL)}/rung", {"json": {}}, 422, "invalid_field", "rung"),
    ("POST", f"/{new_session_id(DEFAULT_CELL)}/rung", {}, 400, "malformed_json", "body"),
    ("POST", f"/{new_session_id(DEFAULT_CELL)}/move", {"json": {"to": 2}}, 422, "invalid_field", "to"),
    ("POST", f"/{new_session_id(DEFAULT_CELL)}/move", {"json": {"at": ""}}, 422, "invalid_field", "at"),
    ("POST", f"/{new_session_id(DEFAULT_CELL)}/move", {"content": b"{"}, 400, "malformed_json", "JSON"),
    ("POST", "/nonsense/move", {"json": {}}, 404, "session_not_found", "nonsense"),
    ("POST", "/nonsense/suspend", {}, 404, "session_not_found", "nonsense"),
    ("POST", "/nonsense/restore", {}, 404, "session_not_found", "nonsense"),
    ("GET", "/nonsense/move", {}, 405, "method_not_allowed", "method"),
    ("POST", f"/{new_session_id(DEFAULT_CELL)}/pause", {}, 404, "session_not_found", "no session"),
    ("PUT", "", {}, 405, "method_not_allowed", "method"),
    ("GET", "/a/b/c/d", {}, 404, "not_found", "nothing"),
]


async def test_bad_input_is_answered_with_what_is_wrong(http: httpx.AsyncClient, stage: Stage) -> None:
    for method, path, given, status, code, named in BAD:
        answer = await http.request(method, f"/v1/sessions{path}", **given)
        case = f"{method} {path} {str(given)[:80]}: {answer.text}"
        assert answer.status_code == status, case
        assert answer.json()["error"]["code"] == code, case
        assert named in answer.json()["error"]["message"], case
    assert not stage.sessions, "nothing of it reached placement"


async def test_refusals_of_placement_keep_their_code(http: httpx.AsyncClient, stage: Stage) -> None:
    expected = {"too_many_sessions": 429, "busy": 503, "idempotency_conflict": 409, "unknown_model": 422}
    for code, status in expected.items():
        stage.refuse_next(code)
        answer = await http.post("/v1/sessions", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert ("retry-after" in answer.headers) == (status in {429, 503})


async def test_who_finds_no_room_is_told_when_to_come_back(http: httpx.AsyncClient, stage: Stage) -> None:
    stage.refuse_next("no_capacity", retry_after_s=41.2)
    answer = await http.post("/v1/sessions", json={"prompt": "x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "42")
    stage.refuse_next("no_capacity", retry_after_s=41.2)
    async with Client(str(http.base_url)) as client:
        with pytest.raises(NoCapacity) as refused:
            await client.open("x")
    assert refused.value.retry_after_s == 42.0


async def test_who_waits_sees_its_place_and_by_whom_it_was_decided(
    http: httpx.AsyncClient, stage: Stage
) -> None:
    opened = await http.post("/v1/sessions", json={"prompt": "x", "priority": -3})
    assert (opened.status_code, opened.json()["priority"]) == (201, -3)
    waits = {"position": 2, "expected_wait_s": 7.5, "served_rung": "fast", "decision": "p-1"}
    stage.change_unheard(opened.json()["id"], status="queued", worker="", **waits)
    shown = (await http.get(f"/v1/sessions/{opened.json()['id']}")).json()
    assert shown.items() >= waits.items()


async def test_a_rung_is_changed_while_it_plays(http: httpx.AsyncClient, stage: Stage) -> None:
    path = f"/v1/sessions/{stage.new_session()}"
    changed = await http.post(f"{path}/rung", json={"rung": "standard"})
    assert (changed.status_code, changed.json()["rung"]) == (202, "standard")
    default = await http.post(f"{path}/rung", json={"rung": ""})
    assert (default.status_code, default.json()["rung"]) == (202, "")
    unknown = await http.post(f"{path}/rung", json={"rung": "best"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "unknown_rung")
    assert "standard" in unknown.json()["error"]["hint"]


async def test_health_metrics_and_the_documented_calls(http: httpx.AsyncClient) -> None:
    readiness = (await http.get("/readyz")).json()
    assert readiness == {"ready": True, "reasons": [], "capacity": 4, "active": 0, "queued": 0, "workers": 1}
    await http.get("/v1/sessions/nonsense")
    await http.get("/never/declared")
    metrics = (await http.get("/metrics")).text
    shown = 'turboserve_gateway_requests_total{method="GET",route="/v1/sessions/{session_id}",status="404"}'
    assert shown in metrics
    assert "never" not in metrics, "a path nobody declared is no label"
    document = (await http.get("/openapi.json")).json()
    calls = {f"{method} {path}" for path, methods in document["paths"].items() for method in methods}
    assert calls >= {
        "post /v1/sessions",
        "get /v1/sessions",
        "get /v1/sessions/{session_id}",
        "delete /v1/sessions/{session_id}",
        "post /v1/sessions/{session_id}/prompt",
        "post /v1/sessions/{session_id}/pause",
        "post /v1/sessions/{session_id}/resume",
        "post /v1/sessions/{session_id}/rung",
        "post /v1/sessions/{session_id}/move",
        "post /v1/sessions/{session_id}/suspend",
        "post /v1/sessions/{session_id}/restore",
        "get /v1/workers",
        "post /v1/workers/{worker_id}/drain",
    }
    opening = document["paths"]["/v1/sessions"]["post"]
    assert set(opening["responses"]) == {"201", "400", "409", "413", "422", "429", "503"}


async def test_files_outside_of_the_page_are_not_served(http: httpx.AsyncClient) -> None:
    for name in ("%2e%2e/settings.py", "..%2fsettings.py", "%2fetc%2fpasswd", "nothing.js", "", "%00", "."):
        assert (await http.get(f"/page/{name}")).status_code == 404, name


async def test_placement_away_is_a_503_that_says_when_to_come_back(nats_url: str, tmp_path: Path) -> None:
    gateway = GatewayProgram(tmp_path, nats_url)
    gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as client:
        answer = await client.post("/v1/sessions", json={"prompt": "x", "model": "whatever"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "placement_away")
        assert answer.headers["retry-after"] == "1"
        unready = await client.get("/readyz")
        assert (unready.status_code, unready.json()["reasons"]) == (503, ["placement is silent"])
        assert (await client.get("/healthz")).status_code == 200
    assert gateway.program.stop() == 0


async def test_bytes_nobody_understands_harm_nothing(http: httpx.AsyncClient, stage: Stage) -> None:
    for address in (
        subjects.FLEET_LOAD.at(cell=DEFAULT_CELL),
        subjects.OPEN.at(cell=DEFAULT_CELL, tenant="default"),
    ):
        await stage.bus.client.publish(address.subject, b"\xc1 nonsense")
    await stage.bus.flush()
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.post("/v1/sessions", json={"prompt": "x"})).status_code == 201


async def test_what_keeps_it_from_starting_is_said(gateway: GatewayProgram, nats_url: str) -> None:
    async def tried(said: str, given: dict[str, Any], **environment: str) -> None:
        settings = msgspec.json.encode({"nats_url": nats_url, "port": 0} | given).decode()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", START, settings, env=os.environ | environment, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(50):
            errors = (await process.communicate())[1].decode()
        assert process.returncode != 0
        assert said in errors
        assert "Traceback" not in errors

    nowhere = "nats://127.0.0.1:1"
    await asyncio.gather(
        tried("another program uses that port", {"port": gateway.port}),
        tried("--port=99999", {"port": 99999}),
        tried("TURBOSERVE_GATEWAY_COLOUR", {}, TURBOSERVE_GATEWAY_COLOUR="red"),
        tried(f"no NATS server answered at {nowhere}", {"nats_url": nowhere, "nats_wait_s": 0.2}),
    )
