"""A worker that can't start says why, and what to do."""

import os
import subprocess
from pathlib import Path

import pytest

from services.worker import main as worker
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import START_S, Program, free_port
from tests.fixtures.worker_wire import WORKER_COMMAND, worker_environment

USAGE, UNAVAILABLE = 2, 69


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLOTS", "many"), ("SLOTS", "-1"), ("ENCODE_PRESET", "best"), ("WORKER_ID", "No Name"), ("SLOT", "3")],
)
def test_a_mistyped_setting_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"TURBOSERVE_WORKER_{name}", value)
    assert worker.main({}) == USAGE
    assert name.lower() in capsys.readouterr().err.lower()


def test_without_nats_it_gives_up_and_says_where_it_looked() -> None:
    code, log = _run(f"nats://127.0.0.1:{free_port()}", TURBOSERVE_NATS_WAIT_S="0.5")
    assert code == UNAVAILABLE
    assert "no NATS server answered at nats://127.0.0.1" in log


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "nonesuch"}, "no model 'nonesuch'"),
        ({"model_loader": "no.such.module"}, "TURBOSERVE_WORKER_MODEL_LOADER=no.such.module"),
        ({"device": "abacus"}, "TURBOSERVE_WORKER_DEVICE=abacus: abacus can't be used"),
        ({"transfer_host": "192.0.2.1"}, "TURBOSERVE_WORKER_TRANSFER_HOST=192.0.2.1"),
        ({"host_pool_gib": "1e6"}, "TURBOSERVE_WORKER_HOST_POOL_GIB=1e+06: only"),
        ({"slots": "2", "capacity": "3"}, "TURBOSERVE_WORKER_CAPACITY=3: every active session needs"),
    ],
)
def test_what_it_cannot_load_is_named(
    settings: dict[str, str], complaint: str, nats_server: NatsServer
) -> None:
    code, log = _run(nats_server.url, **worker_environment(nats_server.url, "w-1", **settings))
    assert code == UNAVAILABLE
    assert complaint in log
    assert "Traceback" not in log


def test_told_to_stop_it_does_not_wait_for_a_model_that_hangs(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    loading = tmp_path / "loading"
    (tmp_path / "hanging.py").write_text(
        "import pathlib, time\n"
        f"def load_model(*_, **__):\n    pathlib.Path({str(loading)!r}).touch()\n    time.sleep(600)\n"
    )
    env = worker_environment(nats_server.url, "w-1", model_loader="hanging") | {"PYTHONPATH": str(tmp_path)}
    program = Program(WORKER_COMMAND, tmp_path / "worker.log", env=env)
    program.start(loading.exists)
    assert program.stop() == 0


def _run(nats_url: str, **environ: str) -> tuple[int, str]:
    """Until it ends by itself: its exit code and what it logged."""
    env = os.environ | worker_environment(nats_url, "w-1") | environ
    done = subprocess.run(
        WORKER_COMMAND, env=env, capture_output=True, text=True, timeout=START_S, check=False
    )
    return done.returncode, done.stderr
