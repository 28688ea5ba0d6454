"""The shell of a service process: signals, logs, traces, the bus, its tasks, and an orderly end.

A service is `async def body(process)`: it sets itself up, calls `process.ready()`, and waits for
`process.stopping`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import msgspec
import psutil
from prometheus_client import start_http_server

from shared import telemetry
from shared.bus import Bus, BusAway
from shared.contracts.fleet import ServiceStatus, Vitals
from shared.contracts.subjects import SERVICE_STATUS
from shared.ids import new_instance_id
from shared.settings import ServiceSettings

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)
R = TypeVar("R")

STATUS_INTERVAL_S = 1.0
STOP_DEADLINE_S = 10.0
_TRACES_DEADLINE_S = 2.0
EXIT_UNAVAILABLE = 69  # sysexits.h EX_UNAVAILABLE: something this process needs can't be reached
EXIT_SOFTWARE = 70  # EX_SOFTWARE: a task failed


class StartupError(Exception):
    """The service can't start: the message says what is wrong and what to do. Ends the process, without a
    traceback.
    """


class Process(Generic[S]):
    """What a running service holds on to. Made by `run`."""

    def __init__(self, service: str, instance: str, settings: S, bus: Bus) -> None:
        self.service = service
        self.instance = instance
        self.settings = settings
        self.bus = bus
        self.stopping = asyncio.Event()
        self.failed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._status = ServiceStatus(service, instance, "starting")
        self._system = psutil.Process()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until the process stops. If it raises, the process stops too: a half-dead service helps
        nobody.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("task %s failed, stopping", task.get_name(), exc_info=error)
            self.failed = True
            self.stopping.set()

    async def unless_stopped(self, work: asyncio.Future[R]) -> R | None:
        """What `work` gives, or raises; None if the process is told to stop before. `work` goes on then."""
        stopped = asyncio.ensure_future(self.stopping.wait())
        waiting: set[asyncio.Future[Any]] = {work, stopped}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return work.result() if work.done() else None

    async def say(self, state: str, detail: str = "") -> None:
        """Tell the world this service's state, now and every second until the next `say`."""
        self._status = ServiceStatus(self.service, self.instance, state, detail)
        await self._publish_status()

    async def ready(self, detail: str = "") -> None:
        logger.info("ready %s", detail)
        await self.say("ready", detail)

    async def _publish_status(self) -> None:
        address = SERVICE_STATUS.at(cell=self.settings.cell, service=self.service, instance=self.instance)
        await self.bus.publish(address, msgspec.structs.replace(self._status, vitals=self._vitals()))

    def _vitals(self) -> Vitals:
        return Vitals(
            tasks=len(asyncio.all_tasks()),
            subscriptions=self.bus.subscriptions,
            open_files=self._system.num_fds(),
            resident_bytes=self._system.memory_info().rss,
        )

    async def repeat_status(self) -> None:
        while True:
            await self._publish_status()
            await asyncio.sleep(STATUS_INTERVAL_S)

    async def cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_DEADLINE_S)


Body = Callable[[Process[S]], Awaitable[None]]


def run(service: str, settings: S, body: Body[S], instance: str = "") -> int:
    """Run `body` until it returns or the process is told to stop. Returns the exit code."""
    telemetry.start_logging(service, settings.log_level, settings.log_format)
    instance = instance or new_instance_id(service)
    provider = telemetry.start_tracing(service, instance, settings.trace_sample_ratio)
    if settings.parent_pid:
        die_with_parent(settings.parent_pid)
    try:
        import uvloop

        return uvloop.run(_main(service, instance, settings, body))
    except (StartupError, BusAway) as error:
        logger.critical("%s cannot start: %s", service, error)
        return EXIT_UNAVAILABLE
    finally:
        if provider is not None:
            telemetry.stop_tracing(provider, _TRACES_DEADLINE_S)


async def _main(service: str, instance: str, settings: S, body: Body[S]) -> int:
    bus = Bus(settings.nats_url, instance, service)
    process = Process(service, instance, settings, bus)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, process.stopping.set)
    await _connect(process)
    try:
        _serve_metrics(settings.metrics_host, settings.metrics_port)
        process.spawn("status", process.repeat_status())
        process.spawn("nats", bus.until_ended())
        await body(process)
        with contextlib.suppress(Exception):
            await process.say("stopped")
    finally:
        await process.cancel_tasks()
        await bus.flush()
        await bus.close()
    return EXIT_SOFTWARE if process.failed else 0


async def _connect(process: Process[S]) -> None:
    """Connect to NATS, unless the process is told to stop first."""
    connecting = asyncio.ensure_future(process.bus.connect(process.settings.nats_wait_s))
    await process.unless_stopped(connecting)
    if not connecting.done():
        connecting.cancel()
        raise BusAway("told to stop before NATS answered")


def _serve_metrics(host: str, port: int) -> None:
    if not port:
        return
    try:
        start_http_server(port, addr=host)
    except OSError as error:
        raise StartupError(
            f"metrics port {port} can't be used: {error.strerror}; set TURBOSERVE_METRICS_PORT"
        ) from None


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel send SIGTERM when the parent ends, so that a killed launcher leaves nothing behind
    (Linux only).
    """
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent_pid:
        sys.exit(0)  # the parent was gone before the request
