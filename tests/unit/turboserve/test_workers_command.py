"""What `turboserve workers` and `turboserve drain` show, and what they say when it can't be done."""

import httpx
import pytest
from click.testing import CliRunner, Result

from turboserve.cli import main

H100 = {
    "name": "H100",
    "kind": "cuda",
    "memory_total_bytes": 80_000_000_000,
    "memory_used_bytes": 21_500_000_000,
    "utilisation_ratio": 0.875,
    "temperature_c": None,
}
BUSY = {"state": "ready", "model": "sprites", "active": 2, "capacity": 4, "copies": 3, "added_later": 1}
HELD = {"paused": 1, "copies_by_tier": {"device": 2, "host": 1}, "transports": ["tcp"]}
WORKERS = {
    "workers": [
        {"id": "worker-1", **BUSY, **HELD, "device": H100},
        {"id": "worker-22", "state": "starting", "model": "sprites", "device": None},
    ]
}
DRAINED = {
    "worker": "worker-1",
    "moved": ["main_a", "main_b"],
    "placed": ["main_d"],
    "queued": [],
    "released": ["main_c"],
    "copies": 0,
    "phases": [{"name": "place", "duration_s": 0.0123}, {"name": "stop", "duration_s": 0.002}],
}
ONLY = {"error": {"code": "only_worker", "message": "no other worker", "hint": "start another first"}}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """A gateway by script; what it was asked."""
    asked: list[httpx.Request] = []

    async def answer(_: object, request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.path == "/v1/workers":
            return httpx.Response(200, json=WORKERS)
        if request.url.path == "/v1/workers/worker-1/drain":
            return httpx.Response(200, json=DRAINED)
        return httpx.Response(409, json=ONLY)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    return asked


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "110"})


def test_the_table_has_the_worker_first_and_nothing_for_what_is_not_told(
    answers: list[httpx.Request],
) -> None:
    shown = run("workers")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        "worker state model active paused suspended device memory busy".split(),
        "worker-1 ready sprites 2/4 1 1 H100 21.5/80.0 GB 88%".split(),
        "worker-22 starting sprites 0/0 0 0".split(),
    ]


def test_a_drain_says_what_became_of_each_session(answers: list[httpx.Request]) -> None:
    told = run("drain", "worker-1", "--force").stdout
    assert answers[0].url.params["force"] == "true"
    assert "2 moved to another worker with its state: main_a main_b" in told
    assert "1 placed on another worker, where the picture is rebuilt or begins anew: main_d" in told
    assert "1 paused, to be placed when resumed: main_c" in told
    assert "waiting" not in told
    phases = [line.split() for line in told.splitlines()[-3:]]
    assert phases == [["place", "12.3", "ms"], ["stop", "2.0", "ms"], ["in", "all", "14.3", "ms"]]


def test_a_refused_drain_is_a_sentence(answers: list[httpx.Request]) -> None:
    refused = run("drain", "worker-2")
    assert refused.exit_code == 1
    assert "no other worker\nstart another first" in refused.stderr
