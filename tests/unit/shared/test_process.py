"""How a service process ends: its exit code, its words, and what the others hear of it."""

import asyncio
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shared.bus import Bus
from shared.contracts.subjects import SERVICE_STATUS
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import START_S, free_port
from tests.fixtures.waiting import WAIT_S

START = """
import asyncio, os, signal, sys
from shared.process import StartupError, run
from shared.settings import ServiceSettings

async def body(process):
{body}

sys.exit(run("gateway", ServiceSettings(nats_url={url!r}, log_format="json", {settings}), body))
"""
UNTIL_STOPPED = "await process.ready('here I am')\nawait process.stopping.wait()"


def program(url: str, body: str, settings: str = "") -> list[str]:
    return [
        sys.executable,
        "-c",
        START.format(body=textwrap.indent(body, "    "), url=url, settings=settings),
    ]


def end(url: str, body: str, settings: str = "") -> tuple[int, str]:
    """Exit code and log."""
    arguments = program(url, body, settings)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=START_S, check=False)
    return done.returncode, done.stderr


def test_nats_away_at_start_is_named() -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    code, log = end(url, UNTIL_STOPPED, "nats_wait_s=0.4")
    assert code == 69
    assert f"gateway cannot start: no NATS server answered at {url} within 0.4 s" in log
    assert "Traceback" not in log


def test_what_stops_a_start_is_said_without_traceback(nats_url: str) -> None:
    code, log = end(nats_url, "raise StartupError('the stars are wrong; wait')")
    assert code == 69
    assert "gateway cannot start: the stars are wrong; wait" in log
    assert "Traceback" not in log


def test_a_metrics_port_in_use_is_named(nats_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, log = end(nats_url, UNTIL_STOPPED, f"metrics_port={taken.getsockname()[1]}")
    assert code == 69
    assert "set TURBOSERVE_METRICS_PORT" in log


def test_a_task_that_fails_ends_the_process(nats_url: str) -> None:
    failing = "async def fail():\n    raise RuntimeError('out of luck')\nprocess.spawn('luck', fail())\n"
    code, log = end(nats_url, failing + UNTIL_STOPPED)
    assert code == 70
    assert "task luck failed" in log
    assert "out of luck" in log


def test_a_connection_that_nats_ended_ends_the_process(tmp_path: Path) -> None:
    """The client gives such a connection up for good, without a word."""
    server = NatsServer(tmp_path, "max_subscriptions: 2")
    server.start_on_any_port()
    several = (
        "from shared.contracts.subjects import DRAIN\n"
        "for _ in range(3):\n    await process.bus.serve(DRAIN, None)\n"
    )
    try:
        code, log = end(server.url, several + UNTIL_STOPPED)
    finally:
        server.kill()
    assert code == 70
    assert "ended the connection for good: nats: maximum subscriptions exceeded" in log


def test_a_collector_that_does_not_answer_holds_no_process_up(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
        span = "from shared import telemetry\nwith telemetry.tracer.start_as_current_span('last'):\n    pass"
        code, _ = end(nats_url, span)
    assert code == 0


def test_a_process_does_not_outlive_its_launcher(nats_url: str) -> None:
    """The parent it was given is not its parent any more: nothing may start."""
    assert end(nats_url, "raise AssertionError('ran')", "parent_pid=1") == (0, "")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
async def test_told_to_stop_it_says_so_and_ends_well(nats_url: str, number: str) -> None:
    heard: list[tuple[str, str]] = []
    stopped = asyncio.Event()
    bus = Bus(nats_url, "test-1")
    await bus.connect(WAIT_S)

    def note(status, _meta) -> None:
        heard.append((status.state, status.detail))
        if status.state == "stopped":
            stopped.set()

    await bus.subscribe(SERVICE_STATUS, note, cell="main")
    await bus.flush()
    body = f"os.kill(os.getpid(), signal.{number})\n{UNTIL_STOPPED}"
    process = await asyncio.create_subprocess_exec(*program(nats_url, body))
    assert await asyncio.wait_for(process.wait(), START_S) == 0
    await asyncio.wait_for(stopped.wait(), WAIT_S)
    assert ("ready", "here I am") in heard
    await bus.close()
