"""`turboserve up` as a process of its own, on a folder that is thrown away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

_READY_S = 180.0
_STOP_S = 60.0


class NotUp(Exception):
    """It did not get ready; says so with the end of its output."""


class Up(NamedTuple):
    """`boot_s`: its first worker's, about."""

    url: str
    boot_s: float


@contextlib.contextmanager
def up(policy: str, workers: int, max_workers: int) -> Iterator[Up]:
    """A system that is ready; stopped afterwards. Raises NotUp."""
    with tempfile.TemporaryDirectory(prefix="turboserve-live-") as folder:
        port, log = _free_port(), Path(folder) / "up.log"
        given = {"port": port, "policy": policy, "workers": workers, "max-workers": max_workers}
        options = [f"--{name}={value}" for name, value in given.items()]
        command = [sys.executable, "-m", "turboserve", "up", f"--data={folder}/data", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            yield Up(url, _wait_ready(process, url, log))
        finally:
            _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> float:
    """Since the gateway answers: the autoscaler, which orders the first worker, is started beside it."""
    deadline, answered_at = time.monotonic() + _READY_S, 0.0
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            ready = httpx.get(f"{url}/readyz", timeout=2.0).is_success
            answered_at = answered_at or time.monotonic()
            if ready:
                return time.monotonic() - answered_at
        time.sleep(0.2)
    raise NotUp(log.read_text(errors="replace")[-2000:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
