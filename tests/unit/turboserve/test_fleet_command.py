"""What `turboserve fleet` asks and shows."""

import json

import httpx
import pytest
from click.testing import CliRunner, Result

from turboserve.cli import main

FLEET = {
    "desired": 2,
    "minimum": 1,
    "maximum": 4,
    "spare": 1,
    "policy": "turboserve",
    "reason": "9 active",
    "frozen": True,
    "dry_run": False,
    "would": "start 1 worker",
    "decision": "a-1",
    "draining": ["worker-2"],
    "workers": [
        {"worker": "worker-1", "state": "running", "restarts": 2, "detail": ""},
        {"worker": "worker-2", "state": "running", "restarts": 0, "detail": ""},
        {"worker": "worker-0", "state": "exited", "restarts": 0, "detail": "exit code 1"},
    ],
}
REFUSED = {"error": {"code": "invalid_field", "message": "the minimum, 9, …", "hint": "nothing was changed"}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, object]]:
    """What a gateway by script was asked: method, path, body. It refuses a minimum of 9."""
    calls: list[tuple[str, str, object]] = []

    async def answer(_: object, request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread() or b"null")
        calls.append((request.method, request.url.path, body))
        refused = bool(body) and body.get("minimum") == 9
        return httpx.Response(422, json=REFUSED) if refused else httpx.Response(200, json=FLEET)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    return calls


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["fleet", *arguments], env={"COLUMNS": "110"})


def test_it_shows_the_size_and_why(asked: list[tuple[str, str, object]]) -> None:
    assert run().stdout.splitlines() == [
        "2 workers wanted, at least 1, at most 4, 1 spare; policy turboserve",
        "  9 active",
        "  frozen: the size stays as it is until `turboserve fleet --unfreeze`",
        "  it would start 1 worker",
        "  turboserve explain a-1",
        "  worker-1  running  after 2 that ended",
        "  worker-2  draining",
        "  worker-0  exited  exit code 1",
    ]
    assert json.loads(run("--json").stdout)["maximum"] == 4
    assert asked == [("GET", "/v1/fleet", None)] * 2


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ("--min 2 --max 8", {"minimum": 2, "maximum": 8}),
        ("--spare 0", {"spare": 0}),
        ("--freeze", {"frozen": True}),
        ("--unfreeze --live", {"frozen": False, "dry_run": False}),
        ("--dry-run", {"dry_run": True}),
    ],
)
def test_it_sets_only_what_is_given(asked: list[tuple[str, str, object]], given: str, body: object) -> None:
    assert run(*given.split()).exit_code == 0
    assert asked == [("PATCH", "/v1/fleet", body)]


def test_what_cannot_be_is_said_in_words(asked: list[tuple[str, str, object]]) -> None:
    assert run("--min", "-1").exit_code == 2
    refused = run("--min", "9")
    assert (refused.exit_code, refused.stderr) == (1, "Error: the minimum, 9, …\nnothing was changed\n")
