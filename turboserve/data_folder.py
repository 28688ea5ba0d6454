"""The folder in which one `turboserve up` keeps everything: streams, database, logs, and the lock that makes
it one."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from turboserve.launch_error import LaunchError

_LOCK_WAIT_S = 15.0
_POLL_S = 0.1
_LARGEST_LOG_BYTES = 10 * 1024 * 1024


class DataFolder:
    """`lock_fd` is inherited by every program that writes here, so the folder stays locked until the last has
    ended."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def nats(self) -> Path:
        return self.path / "nats"

    @property
    def database_url(self) -> str:
        return f"sqlite+aiosqlite:///{self.path / 'turboserve.db'}"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def write_owner(self, address: str) -> None:
        """Who holds the lock, for the message to whoever is refused."""
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, json.dumps({"pid": os.getpid(), "address": address}).encode(), 0)

    def close(self) -> None:
        os.close(self.lock_fd)


def open_data_folder(path: Path, say: Callable[[str], None]) -> DataFolder:
    """Make what is missing and lock the folder. Raises LaunchError if it can't be written or is in use."""
    path = path.expanduser().absolute()
    try:
        for folder in (path, path / "logs", path / "nats"):
            folder.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(path / "turboserve.lock", os.O_RDWR | os.O_CREAT, 0o644)
        _keep_logs_small(path / "logs")
    except OSError as error:
        raise LaunchError(
            f"the data folder {path} can't be written: {error.strerror}",
            "name another one: turboserve up --data FOLDER, or make up DATA=FOLDER",
        ) from None
    try:
        _lock(lock_fd, path, say)
    except BaseException:
        os.close(lock_fd)
        raise
    return DataFolder(path, lock_fd)


def _lock(lock_fd: int, path: Path, say: Callable[[str], None]) -> None:
    """A killed launcher's programs may need a moment to end: wait for them, but not for a launcher that
    runs."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    said = False
    while not _try_lock(lock_fd):
        owner = _owner(lock_fd)
        if _runs(owner.get("pid")) or time.monotonic() > deadline:
            raise LaunchError(
                f"another turboserve uses the data folder {path} (process {owner.get('pid', 'unknown')}"
                + (f", its page is {owner['address']}" if owner.get("address") else "")
                + ")",
                "stop that one, or give this one a folder and a port of its own: "
                "turboserve up --data FOLDER --port PORT, or make up DATA=FOLDER PORT=PORT",
            )
        if not said:
            say("waiting for what an earlier turboserve left running here to end")
            said = True
        time.sleep(_POLL_S)


def _try_lock(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock_fd: int) -> dict[str, object]:
    try:
        owner = json.loads(os.pread(lock_fd, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _runs(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _keep_logs_small(logs: Path) -> None:
    for log in logs.glob("*.log"):
        if log.stat().st_size > _LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
