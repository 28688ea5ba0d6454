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

import httpx

_READY_S = 180.0
_STOP_S = 60.0


class NotUp(Exception):
    """It did not get ready; says so with the end of its output."""


@contextlib.contextmanager
def up(policy: str, workers: int, max_workers: int) -> Iterator[str]:
    """The address of a system that is ready; stopped afterwards. Raises NotUp."""
    with tempfile.TemporaryDirectory(prefix="turboserve-live-") as folder:
        port, log = _free_port(), Path(folder) / "up.log"
        given = {"port": port, "policy": policy, "workers": workers, "max-workers": max_workers}
        options = [f"--{name}={value}" for name, value in given.items()]
        command = [sys.executable, "-m", "turboserve", "up", f"--data={folder}/data", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(process, url, log)
            yield url
        finally:
            _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=2.0).is_success:
                return
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
