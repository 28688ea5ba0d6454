"""`turboserve up` as a user has it: real processes, from the first line to the last one gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import psutil
import pytest

from tests.fixtures.process import Program, free_port
from tests.fixtures.system import TINY

COMMAND = [sys.executable, "-m", "turboserve"]
MARK = "UP_TEST_FOLDER"
pytestmark = pytest.mark.timeout(300)  # five processes and more, started one after another
START_S = 90.0
CHANGE_S = 60.0


class Up:
    """One `turboserve up` on a folder of its own, its output, and the processes it has."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.mark = str(folder)
        self.starts_at = 0
        arguments = ["up", "--port", str(self.port), "--data", str(self.data)]
        self.program = Program(
            COMMAND + arguments, folder / "up.out", env={MARK: self.mark} | TINY | (environ or {})
        )

    def start(self) -> None:
        self.starts_at = len(self.program.output())
        self.program.start(lambda: "turboserve is up: " in self.output_since_start(), START_S)

    def output_since_start(self) -> str:
        return self.program.output()[self.starts_at :]

    def see(self, pattern: str) -> re.Match[str]:
        """The output's first match, as soon as there is one."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(re.finditer(pattern, self.output_since_start()))
            return bool(found)

        wait_until(seen, CHANGE_S, lambda: f"no {pattern!r} in:\n{self.output_since_start()}")
        return found[0]

    def processes(self) -> list[psutil.Process]:
        """Whatever runs with this test's mark in its environment: the launcher and all that came of it."""
        return [p for p in psutil.process_iter() if _environ(p).get(MARK) == self.mark]

    def process_of(self, command: str) -> psutil.Process:
        return next(p for p in self.processes() if command in " ".join(p.cmdline()))

    def none_left(self) -> None:
        wait_until(lambda: not self.processes(), CHANGE_S, lambda: f"still there: {self.processes()}")


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except (psutil.Error, OSError):
        return {}


def wait_until(is_so: Callable[[], bool], deadline_s: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def turboserve(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND + list(arguments),
        env=os.environ | TINY | environ,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    up.program.kill()
    up.none_left()


def test_from_the_first_start_to_the_last_process(up: Up, tmp_path: Path) -> None:
    up.start()
    output = up.output_since_start()
    for service in ("nats", "placement", "autoscaler", "gateway", r"worker-1-\w+"):
        assert re.search(rf"^  {service} +ready", output, re.MULTILINE), output
    assert output.rstrip().splitlines()[-1].startswith(f"turboserve is up: {up.url}")

    video = tmp_path / "out.mp4"
    steering = ["--prompt", "a red ball", "--then", "a blue ball@4"]
    streamed = turboserve("stream", *steering, "--chunks", "6", "-o", str(video), "--url", up.url)
    assert streamed.returncode == 0, streamed.stdout + streamed.stderr
    assert "chunk 4: a blue ball" in streamed.stdout
    assert reds_and_blues(video) == (9 + 3 * 12, 2 * 12)

    interrupted = tmp_path / "interrupted.mp4"
    forever = ["stream", "--prompt", "a red ball", "-o", str(interrupted), "--url", up.url]
    watching = Program(COMMAND + forever, tmp_path / "stream.out", env=TINY)
    watching.start(lambda: has_bytes(interrupted.with_name(".interrupted.mp4.part")))
    assert watching.stop(signal.SIGINT) == 130
    assert reds_and_blues(interrupted)[0] >= 9
    assert "no session runs" in turboserve("sessions", "--url", up.url).stdout

    second = turboserve("up", "--data", str(up.data), "--port", "0")
    assert second.returncode == 1
    assert str(up.data) in second.stderr
    assert up.url in second.stderr

    os.kill(up.program.pid, signal.SIGINT)
    assert up.program.stop(signal.SIGCONT, 40.0) == 0, up.program.output()
    ends = re.findall(r"^  (\w+) +(?:stopped|killed)", up.output_since_start(), re.MULTILINE)
    assert ends == ["gateway", "autoscaler", "placement", "nats"]
    assert "killed" not in up.output_since_start()
    assert not up.processes()

    up.start()
    session = streamed.stdout.split()[1]
    assert session in turboserve("sessions", "--all", TURBOSERVE_URL=up.url).stdout
    up.program.kill()
    up.none_left()


def test_what_crashes_is_started_again(up: Up) -> None:
    up.start()
    first = up.see(r"(worker-1-\w+) +ready")[1]
    up.process_of(f"--worker-id {first}").kill()
    up.see(rf"{first} +ended +killed by SIGKILL")
    up.see(rf"worker-1-(?!{first[-4:]})\w+ +ready")
    commands = {"gateway": "turboserve gateway", "placement": "turboserve placement", "nats": "nats-server"}
    for command in commands.values():
        up.process_of(command).kill()
    for name in commands:
        up.see(rf"{name} +ended +killed by SIGKILL; restarting")
        up.see(rf"(?s){name} +ended.*{name} +ready")
    streamed = turboserve("stream", "--prompt", "a red ball", "--chunks", "2", "--url", up.url)
    assert streamed.returncode == 0, streamed.stdout + streamed.stderr + up.program.output()


def test_a_model_that_cannot_start_stops_everything(tmp_path: Path) -> None:
    up = Up(tmp_path, {"TURBOSERVE_WORKER_MODEL": "unheard-of"})
    done = turboserve(*up.program.arguments[3:], TURBOSERVE_WORKER_MODEL="unheard-of", **{MARK: up.mark})
    assert done.returncode == 1
    assert "unheard-of" in done.stderr
    assert str(up.data / "logs" / "worker-1.log") in done.stderr
    assert not up.processes()


def test_a_taken_port_and_a_blocked_folder_are_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = turboserve("up", "--port", str(port), "--data", str(tmp_path / "data"))
        assert done.returncode == 1
        assert f"port {port}" in done.stderr
        assert f"PORT={port + 1}" in done.stderr
    (tmp_path / "file").touch()
    done = turboserve("up", "--port", "0", "--data", str(tmp_path / "file"))
    assert (done.returncode, "data folder" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def reds_and_blues(path: Path) -> tuple[int, int]:
    """How many frames of the tiny model's video are mostly red, and mostly blue."""
    reds = blues = 0
    with av.open(str(path)) as video:
        for frame in video.decode(video=0):
            red, _, blue = frame.to_ndarray(format="rgb24").reshape(-1, 3).mean(axis=0)
            reds += int(red > blue)
            blues += int(blue > red)
    return reds, blues
