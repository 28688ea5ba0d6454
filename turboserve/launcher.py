"""`turboserve up`: everything on this machine, each service a process of its own, started and stopped in
order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from shared.bus import Bus, BusAway
from shared.settings import SERVICES, ServiceSettings, SettingsError, load
from turboserve.board import Board, show
from turboserve.child import Child
from turboserve.data_folder import DataFolder, open_data_folder
from turboserve.launch_error import LaunchError
from turboserve.log_tail import LogTail
from turboserve.nats_server import find_binary, free_port, write_config
from turboserve.service_command import settings_of

_NATS_WAIT_S = 10.0
_READY_WAIT_S = 60.0
_TAIL_BEAT_S = 1.0
# Longer than the autoscaler gives its workers (8 s to end, 5 s once killed) and the services their tasks (10
# s).
_STOP_DEADLINES_S = {"gateway": 12.0, "autoscaler": 18.0, "text": 5.0, "placement": 12.0, "nats": 5.0}
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound


class Options(msgspec.Struct, frozen=True):
    """What `turboserve up` was told. `port` 0: any free one. None: not told; without `text_weights` no text
    encoder runs. `policy`: of placement and autoscaler both.
    """

    host: str
    port: int
    data: Path
    workers: int
    max_workers: int | None = None
    database_url: str | None = None
    nats_url: str | None = None
    text_weights: Path | None = None
    policy: str | None = None


def up(options: Options) -> None:
    """Run everything until Ctrl-C or SIGTERM. Raises LaunchError if it can't start or can't go on."""
    _check_settings()
    _check_policy(options.policy)
    _check_counts(options)
    _check_port(options.host, options.port)
    data = open_data_folder(options.data, show)
    try:
        # The launcher's own lines are the board's; what its libraries log goes beside the services' logs.
        logging.basicConfig(filename=data.log("up"), level=logging.INFO, format="%(asctime)s %(message)s")
        asyncio.run(_launch(options, data))
    finally:
        data.close()


async def _launch(options: Options, data: DataFolder) -> None:
    await _Launcher(options, data).run()


def _check_settings() -> None:
    """Name a wrong variable once, here, instead of in the log of every service."""
    for service in SERVICES:
        try:
            load(settings_of(service), service, os.environ, {})
        except SettingsError as error:
            raise LaunchError(str(error)) from None


def _check_policy(name: str | None) -> None:
    from services.placement.policies.registry import POLICIES

    if name is not None and name not in POLICIES:
        raise LaunchError(f"there is no policy {name}", f"there are: {', '.join(POLICIES)}")


def _check_counts(options: Options) -> None:
    if options.max_workers is not None and options.workers > options.max_workers:
        counts = f"at least {options.workers} and at most {options.max_workers} workers"
        raise LaunchError(f"{counts} can't be", "raise --max-workers, or lower --workers")


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the gateway will: a port whose last connections linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise LaunchError(
            f"port {port} of {host} can't be used: {error.strerror}",
            f"choose another: turboserve up --port {port + 1}, or make up PORT={port + 1}",
        ) from None


class _Launcher:
    def __init__(self, options: Options, data: DataFolder) -> None:
        self._options = options
        self._data = data
        self._port = options.port or free_port()
        self._cell = load(ServiceSettings, "up", os.environ, {}).cell
        self._board = Board(self._on_ready, self._on_no_worker)
        self._children: dict[str, Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._failure: LaunchError | None = None
        self._bus: Bus | None = None

    @property
    def address(self) -> str:
        host = self._options.host
        shown = "localhost" if host in (*_EVERYWHERE, "127.0.0.1", "::1") else host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self._port}"

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._data.write_owner(self.address)
        if "TURBOSERVE_METRICS_PORT" in os.environ:
            show("turboserve: TURBOSERVE_METRICS_PORT is not used here, since several services would need it")
        show(f"turboserve: data in {self._data.path}, logs in {self._data.logs}")
        try:
            await self._until_stop(self._start())
            await self._until_stop(self._tail_logs())
        finally:
            await self._stop_all()
        if self._failure is not None:
            raise self._failure

    async def _start(self) -> None:
        nats_url = await self._start_nats()
        await self._board.listen(self._connected, self._cell)
        for service, options in self._service_options(nats_url).items():
            command = [sys.executable, "-P", "-m", "turboserve", service]
            self._launch(service, command + [f"--{k}={v}" for k, v in options.items() if v is not None])
        await self._services_ready()
        if self._options.workers:
            await self._board.first_worker.wait()  # the autoscaler ends one that takes too long
        show(f"\nturboserve is up: {click.style(self.address, bold=True)}   (Ctrl-C stops it)\n")

    @property
    def _connected(self) -> Bus:
        assert self._bus is not None, "the bus is there once NATS is"
        return self._bus

    async def _start_nats(self) -> str:
        """Our own server, or the one the user named. Returns its address once it answers."""
        url = self._options.nats_url
        if url is None:
            port = free_port()
            url = f"nats://127.0.0.1:{port}"
            self._launch("nats", [str(find_binary()), "-c", str(write_config(self._data.nats, port))])
        self._bus = Bus(url, "launcher")
        try:
            await self._bus.connect(_NATS_WAIT_S)
        except BusAway as error:
            hint = f"its log: {self._data.log('nats')}" if "nats" in self._children else ""
            raise LaunchError(str(error), hint) from None
        self._nats_answers()
        self._bus.on_reconnect(self._nats_answers)
        return url

    def _nats_answers(self) -> None:
        self._on_ready("nats")
        self._board.say("nats", "ready", self._connected.url)

    def _service_options(self, nats_url: str) -> Mapping[str, Mapping[str, object]]:
        """In the order of starting: the worker takes longest, so the service that starts it comes first."""
        options = self._options
        # Only one process could have the port that TURBOSERVE_METRICS_PORT names.
        shared = {"nats-url": nats_url, "parent-pid": os.getpid(), "metrics-port": 0}
        database_url = options.database_url or self._data.database_url
        text = {"text": {**shared, "weights-path": options.text_weights}} if options.text_weights else {}
        return {
            **text,
            "autoscaler": {
                **shared,
                "database-url": database_url,
                "minimum": options.workers,
                "maximum": options.max_workers,
                "log-folder": self._data.logs,
            },
            "placement": {**shared, "database-url": database_url},
            "gateway": {**shared, "host": options.host, "port": self._port},
        }

    def _launch(self, name: str, command: list[str]) -> None:
        child = Child(
            name,
            command,
            self._data.log(name),
            self._data.lock_fd,
            self._board.say,
            stop_deadline_s=_STOP_DEADLINES_S[name],
        )
        self._children[name] = child
        task = asyncio.create_task(self._supervise(child), name=name)
        self._tasks.add(task)

    async def _supervise(self, child: Child) -> None:
        try:
            await child.run()
        except LaunchError as error:
            self._fail(error)

    def _fail(self, error: LaunchError) -> None:
        self._failure = self._failure or error
        self._stop.set()

    def _on_ready(self, service: str) -> None:
        if child := self._children.get(service):
            child.ready.set()

    async def _services_ready(self) -> None:
        # A text encoder reads 11 GB: the page is up before that, its sessions wait.
        waiting = [c for name, c in self._children.items() if name not in ("nats", "text")]
        try:
            async with asyncio.timeout(_READY_WAIT_S):
                for child in waiting:
                    await child.ready.wait()
        except TimeoutError:
            late = next(c.name for c in waiting if not c.ready.is_set())
            raise LaunchError(
                f"{late} was not ready within {_READY_WAIT_S:g} s (last heard: {self._board.state(late)})",
                f"its log says more: {self._data.log(late)}",
            ) from None

    def _on_no_worker(self, why: str) -> None:
        """A model that can't start is better said now than by a page on which nothing plays."""
        self._fail(LaunchError(why, f"its log says more: {self._data.log('worker-1')}"))

    async def _tail_logs(self) -> None:
        tail = LogTail(self._data.logs)
        while True:
            for name, message in tail.new_errors():
                self._board.tell(name, "error", message)
            await asyncio.sleep(_TAIL_BEAT_S)

    async def _until_stop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, but no longer than until the launcher stops."""
        working: asyncio.Future[Any] = asyncio.ensure_future(work)
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await working
            except LaunchError as error:
                self._fail(error)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            show("killing what has not stopped yet")
            for child in self._children.values():
                child.kill()
            return
        show("\nturboserve: stopping (Ctrl-C again kills)")
        self._stop.set()

    async def _stop_all(self) -> None:
        """First who takes requests, then who makes workers, then who keeps the rows, last what they speak
        through."""
        for name in _STOP_DEADLINES_S:
            if child := self._children.get(name):
                await child.stop()
                if name == "placement" and self._bus is not None:
                    await self._bus.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
