"""One program that the launcher runs: started, watched, started again within a bound, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable
from pathlib import Path

from shared.last_words import how_it_ended
from turboserve.launch_error import LaunchError

RESTART_LIMIT = 5
RESTART_WINDOW_S = 120.0
_FIRST_PAUSE_S = 0.5
_KILL_DEADLINE_S = 5.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

Say = Callable[[str, str, str], None]


class Child:
    """`say(name, state, detail)` hears of every change. `ready` is for others to set: until it is, an end is
    fatal."""

    def __init__(
        self, name: str, command: list[str], log: Path, lock_fd: int, say: Say, *, stop_deadline_s: float
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._command = command
        self._log = log
        self._lock_fd = lock_fd
        self._say = say
        self._stop_deadline_s = stop_deadline_s
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._ends: deque[float] = deque(maxlen=RESTART_LIMIT)
        self._log_start = 0

    async def run(self) -> None:
        """Until `stop`. Raises LaunchError if it ends before it was ready, or too often afterwards."""
        while not self._stopping.is_set():
            process = await self._start()
            exit_code = await process.wait()
            if self._stopping.is_set():
                return
            pause_s = self._after_end(how_it_ended(exit_code, self._log, self._log_start))
            await asyncio.sleep(pause_s)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after the deadline."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._say(self.name, "stopping", "")
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        if not await _ended(process, self._stop_deadline_s):
            self.kill()
            await _ended(process, _KILL_DEADLINE_S)
            self._say(self.name, "killed", f"it did not stop within {self._stop_deadline_s:g} s")
        else:
            self._say(self.name, "stopped", "")

    def kill(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _start(self) -> Process:
        self._say(self.name, "starting", "")
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            try:
                # A session of its own: Ctrl-C at the terminal must reach the launcher alone, which stops in
                # order.
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(self._lock_fd,),
                    preexec_fn=_die_with_launcher if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise LaunchError(f"{self._command[0]} can't be started: {error.strerror}") from None
        return self._process

    def _after_end(self, how: str) -> float:
        """How long to wait before the next start."""
        if not self.ready.is_set():
            raise LaunchError(
                f"{self.name} ended before it was ready: {how}", f"its log says more: {self._log}"
            )
        now = time.monotonic()
        recent = [at for at in self._ends if now - at < RESTART_WINDOW_S]
        if len(recent) == RESTART_LIMIT:
            raise LaunchError(
                f"{self.name} ended {RESTART_LIMIT + 1} times within {RESTART_WINDOW_S:g} s: {how}",
                f"its log says more: {self._log}",
            )
        self._ends.append(now)
        pause_s: float = _FIRST_PAUSE_S * 2.0 ** len(recent)
        self._say(self.name, "ended", f"{how}; restarting it in {pause_s:g} s (its log: {self._log})")
        return pause_s


async def _ended(process: Process, deadline_s: float) -> bool:
    try:
        async with asyncio.timeout(deadline_s):
            await process.wait()
    except TimeoutError:
        return False
    return True


def _die_with_launcher() -> None:
    """Between fork and exec: the kernel ends this child when the launcher is gone, however it went."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
