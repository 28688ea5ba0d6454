"""What `turboserve replay` says of what can't be replayed."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from bench.live.replay import MOST_VIEWERS
from bench.live.viewer import is_refusal
from bench.traces import files
from bench.traces.events import Event
from tests.fixtures.process import free_port
from turboserve.cli import main
from turboserve.errors import of_status

WORKERS = {"workers": [{"id": "w-1", "state": "ready", "capacity": 3, "latency_s": [0.0, 0.25, 0.5]}]}
FLEET = {"desired": 1, "minimum": 1, "maximum": 2, "reason": "", "workers": []}
NOT_FOUND = {"error": {"code": "not_found", "message": "no such path"}}


class _Gateway(BaseHTTPRequestHandler):
    """One that tells of its fleet, or an old one that doesn't."""

    answers: ClassVar[dict[str, object]] = {"/v1/workers": WORKERS, "/v1/fleet": FLEET}

    def do_GET(self) -> None:
        body = json.dumps(self.answers.get(self.path, NOT_FOUND)).encode()
        self.send_response(200 if self.path in self.answers else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class _Old(_Gateway):
    answers: ClassVar[dict[str, object]] = {"/v1/workers": WORKERS}


@contextlib.contextmanager
def served(gateway: type[_Gateway]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def replay(*arguments: str) -> str:
    ran = CliRunner().invoke(main, ["replay", *arguments])
    assert ran.exit_code == 1, ran.output
    return ran.output


def test_a_wrong_trace_is_refused_with_its_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"time_s": 1, "session": "a", "event": "arrive", "active": true}\n'
        '{"time_s": 0.5, "session": "a", "event": "depart"}\n'
    )
    assert "line 2: time_s 0.5 comes after 1.0" in replay("--trace", str(trace))


def test_nobody_there_is_said() -> None:
    assert "no turboserve answers at" in replay("--url", f"http://127.0.0.1:{free_port()}")


def test_an_old_server_is_said() -> None:
    with served(_Old) as url:
        assert f"the turboserve at {url} is older than this command" in replay("--url", url)


def test_a_target_that_one_session_alone_misses_is_refused() -> None:
    with served(_Gateway) as url:
        said = replay("--url", url, "--latency-target-ms", "200")
    assert "the latency target of 200 ms is below what one session alone takes there: 250 ms" in said


def test_more_viewers_than_one_replay_plays_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    files.write([Event(0.0, f"s{n}", "arrive", active=False) for n in range(MOST_VIEWERS + 1)], trace)
    assert f"has {MOST_VIEWERS + 1} sessions at once" in replay("--trace", str(trace))


@pytest.mark.parametrize(
    ("status", "code", "refused"),
    [
        (429, "too_many_sessions", True),
        (503, "no_room", True),
        (503, "placement_away", False),
        (503, "unreachable", False),
        (422, "unknown_model", False),
    ],
)
def test_what_counts_as_the_systems_no(status: int, code: str, refused: bool) -> None:
    assert is_refusal(of_status(status, code, "")) == refused
