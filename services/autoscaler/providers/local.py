"""Workers as processes of this machine, children of the autoscaler: they end with it, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from services.autoscaler.provider import Exit, Member, OnExit
from services.autoscaler.settings import AutoscalerSettings
from shared.ids import new_instance_id
from shared.last_words import how_it_ended

logger = logging.getLogger(__name__)

# -P: a folder named `shared` where the user happens to stand must not be taken for ours.
_WORKER = (sys.executable, "-P", "-m", "turboserve", "worker")
_KILL_DEADLINE_S = 5.0
_SUFFIX_CHARS = 4


class _Child:
    """`log_start`: where in the log file, which earlier workers of the slot wrote too, its lines begin."""

    def __init__(
        self,
        worker: str,
        incarnation: str,
        slot: int,
        device: str,
        process: Process,
        log: Path | None,
        log_start: int,
    ) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.slot = slot
        self.device = device
        self.process = process
        self.log = log
        self.log_start = log_start
        self.stopping = False
        self.started_at = time.monotonic()
        self.watch: asyncio.Task[None] | None = None


class LocalProvider:
    """`on_exit` is called in the event loop as soon as a process has ended. `program`: what runs, before its
    options.
    """

    node_size = 1

    def __init__(
        self, settings: AutoscalerSettings, on_exit: OnExit, program: Sequence[str] = _WORKER
    ) -> None:
        self._settings = settings
        self._program = program
        self._on_exit = on_exit
        self._children: dict[str, _Child] = {}
        self._logs = Path(settings.log_folder) if settings.log_folder else None
        self._devices = [name.strip() for name in settings.devices.split(",") if name.strip()]

    async def open(self) -> None:
        """None of an earlier autoscaler is left: they ended with it."""

    async def close(self) -> None:
        await self.stop(list(self._children))

    def members(self) -> tuple[Member, ...]:
        return tuple(
            Member(c.worker, "stopping" if c.stopping else "alive", c.started_at)
            for c in self._children.values()
        )

    async def start(self) -> list[str]:
        slot, device = self._free_slot(), self._free_device()
        # New with every process: no report or command of an old one can be taken for the new one's.
        worker = f"worker-{slot}-{secrets.token_hex(_SUFFIX_CHARS // 2)}"
        incarnation = new_instance_id("run")
        log = self._logs / f"worker-{slot}.log" if self._logs else None
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(_open_log(log)) if log else None
            log_start = output.tell() if output else 0
            process = await asyncio.create_subprocess_exec(
                *self._command(worker, incarnation, device),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {"TURBOSERVE_NATS_URL": self._settings.nats_url},
            )
            child = _Child(worker, incarnation, slot, device, process, log, log_start)
        self._children[worker] = child
        child.watch = asyncio.create_task(self._watch(child), name=f"watch {worker}")
        logger.info("started %s", worker, extra={"pid": process.pid})
        return [worker]

    def release(self, worker: str) -> None:
        if child := self._children.get(worker):
            child.stopping = True

    async def stop(self, workers: Sequence[str]) -> None:
        children = [self._children[w] for w in workers if w in self._children]
        for child in children:
            child.stopping = True
            _signal(child.process, hard=False)
        await self._wait(children, self._settings.worker_stop_s)
        for child in children:
            if child.process.returncode is None:
                logger.warning(
                    "%s did not end within %g s: killed", child.worker, self._settings.worker_stop_s
                )
                _signal(child.process, hard=True)
        await self._wait(children, _KILL_DEADLINE_S)

    async def kill(self, worker: str) -> None:
        if child := self._children.get(worker):
            _signal(child.process, hard=True)
            await self._wait([child], _KILL_DEADLINE_S)

    async def _wait(self, children: list[_Child], deadline_s: float) -> None:
        if watches := [c.watch for c in children if c.watch is not None and not c.watch.done()]:
            await asyncio.wait(watches, timeout=deadline_s)

    async def _watch(self, child: _Child) -> None:
        exit_code = await child.process.wait()
        del self._children[child.worker]
        # A worker that was told to go may still go wrongly; one that wasn't may not even go rightly.
        how = how_it_ended(exit_code, child.log, child.log_start)
        self._on_exit(Exit(child.worker, exit_code, child.stopping, how, child.incarnation))

    def _free_slot(self) -> int:
        taken = {c.slot for c in self._children.values()}
        return next(n for n in range(1, len(taken) + 2) if n not in taken)

    def _free_device(self) -> str:
        """With the fewest workers that stay, and then the fewest at all: one that is told to go may take its
        time. "": workers choose by themselves.
        """

        def taken(device: str) -> tuple[int, int]:
            there = [child for child in self._children.values() if child.device == device]
            return sum(not child.stopping for child in there), len(there)

        return min(self._devices, key=taken, default="")

    def _command(self, worker: str, incarnation: str, device: str) -> list[str]:
        """Without the bus's address: every user of the machine can read command lines, and it may hold a
        password.
        """
        settings = self._settings
        given = {
            "worker-id": worker,
            "incarnation": incarnation,
            "cell": settings.cell,
            "log-level": settings.log_level,
            "trace-sample-ratio": str(settings.trace_sample_ratio),
            # Several share this machine: none may take the port of the other.
            "metrics-port": "0",
            "parent-pid": str(os.getpid()),
            **({"model": settings.model} if settings.model else {}),
            **({"device": device} if device else {}),
        }
        options = [word for name, value in given.items() for word in (f"--{name}", value)]
        return [*self._program, *options]


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _signal(process: Process, *, hard: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hard:
            process.kill()
        else:
            process.terminate()
