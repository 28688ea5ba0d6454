"""The worker processes of one node. None is started again: who replaces what ends is the autoscaler's to say,
and it counts nodes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence

from services.node.settings import NodeSettings
from shared.contracts.fleet import WorkerExited
from shared.ids import new_instance_id

logger = logging.getLogger(__name__)

# -P: a folder named `shared` where the process happens to stand must not be taken for ours.
PROGRAM = (sys.executable, "-P", "-m", "turboserve", "worker")

OnEnd = Callable[[WorkerExited], None]


class Workers:
    """`on_end` is called in the event loop as soon as one has ended."""

    def __init__(
        self, settings: NodeSettings, node: str, on_end: OnEnd, program: Sequence[str] = PROGRAM
    ) -> None:
        self._settings = settings
        self._node = node
        self._on_end = on_end
        self._program = program
        self._processes: dict[str, Process] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._told: set[str] = set()
        self.exit_code = 0
        """The first that was not 0. To end by the signal it was told by is all right."""

    @property
    def living(self) -> list[str]:
        return list(self._processes)

    async def start(self) -> None:
        """All of them; their output is this process's."""
        for index in range(self._settings.workers):
            worker, incarnation = f"{self._node}-{index}", new_instance_id("run")
            process = await asyncio.create_subprocess_exec(
                *self._command(worker, incarnation, index), stdin=DEVNULL, start_new_session=True
            )
            self._processes[worker] = process
            watch = self._watch(worker, incarnation, process)
            self._watches.append(asyncio.create_task(watch, name=f"watch {worker}"))
            logger.info("started %s", worker, extra={"pid": process.pid})

    async def ended(self) -> None:
        """Once the last one has."""
        await asyncio.gather(*self._watches)

    def terminate(self, workers: Sequence[str]) -> None:
        """They finish the chunks in hand."""
        self._told |= set(workers)
        for process in self._among(workers):
            process.terminate()

    def kill(self, workers: Sequence[str]) -> None:
        for process in self._among(workers):
            process.kill()

    def _among(self, workers: Sequence[str]) -> list[Process]:
        return [self._processes[worker] for worker in workers if worker in self._processes]

    async def _watch(self, worker: str, incarnation: str, process: Process) -> None:
        exit_code = await process.wait()
        del self._processes[worker]
        if exit_code == -signal.SIGTERM and worker in self._told:
            exit_code = 0
        self.exit_code = self.exit_code or exit_code
        self._on_end(WorkerExited(worker, exit_code, incarnation))

    def _command(self, worker: str, incarnation: str, index: int) -> list[str]:
        """What every worker of the node has in common is in the environment, which it inherits."""
        settings = self._settings
        given = {
            "worker-id": worker,
            "node": self._node,
            "device": f"cuda:{index}" if settings.device == "cuda" else settings.device,
            "incarnation": incarnation,
            "metrics-port": settings.metrics_port + 1 + index if settings.metrics_port else 0,
            "parent-pid": os.getpid(),
        }
        return [
            *self._program,
            *(word for name, value in given.items() for word in (f"--{name}", str(value))),
        ]
