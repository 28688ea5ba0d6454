"""The services as processes of one machine, each with a log of its own; none outlives this process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from shared.bus import Bus
from turboserve.nats_server import find_binary, free_port, write_config

POLICY = "fixed-ll"
"""Moves no session of its own accord: the benchmark does. Who is resumed comes back where its state is."""
_STOP_S = 15.0
_BUS_WAIT_S = 15.0
_ASK_S = 5.0
_POLL_S = 0.1
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None)


class NotStarted(Exception):
    """A service ended, or wasn't ready in time. The message carries the end of its log."""


class Services:
    """`devices`: a worker for each, named worker-1 and on. `settings`: of the workers."""

    def __init__(
        self,
        out: Path,
        devices: Sequence[str],
        model: str,
        settings: Mapping[str, str],
        policy: str = POLICY,
    ) -> None:
        self.workers = {f"worker-{number}": device for number, device in enumerate(devices, 1)}
        self.nats_url = f"nats://127.0.0.1:{free_port()}"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.started_at: dict[str, float] = {}
        self._out, self._model, self._settings, self._policy = out, model, settings, policy
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._metrics: dict[str, int] = {}
        self._environment = os.environ | {"TURBOSERVE_LOG_FORMAT": "text", "PYTHONUNBUFFERED": "1"}

    async def start(self, data: Path) -> Bus:
        """Everything but the workers' readiness. `data`: an empty folder for NATS and the database."""
        (self._out / "logs").mkdir(parents=True, exist_ok=True)
        port = int(self.nats_url.rpartition(":")[2])
        self._run("nats", [str(find_binary()), "-c", str(write_config(data, port))])
        bus = Bus(self.nats_url, "bench-system", "bench")
        await bus.connect(_BUS_WAIT_S)
        database = f"sqlite+aiosqlite:///{data / 'turboserve.db'}"
        given = {"default_model": self._model, "models": self._model, "policy": self._policy}
        self._service("placement", database_url=database, **given)
        self._service("gateway", port=self.url.rpartition(":")[2])
        for worker, device in self.workers.items():
            given = {"model": self._model, "device": device, "worker_id": worker, **self._settings}
            self._service("worker", worker, **given)
        return bus

    def check(self) -> None:
        """Raises `NotStarted` if one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise NotStarted(f"{name} ended with {process.returncode}:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        log = self._log(name).read_text(errors="replace") if self._log(name).exists() else ""
        return "\n".join(log.splitlines()[-lines:])

    def log_lines(self, name: str, holding: str) -> list[str]:
        return [line for line in self._log(name).read_text(errors="replace").splitlines() if holding in line]

    async def answers(self) -> None:
        """Returns once the gateway says that there is a worker with room: give it a deadline."""
        async with httpx.AsyncClient(base_url=self.url, timeout=_ASK_S, trust_env=False) as http:
            while True:
                self.check()
                try:
                    if (await http.get("/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(_POLL_S)

    async def metrics(self) -> dict[str, str]:
        """What each worker and the gateway would tell Prometheus; "" where one doesn't answer."""
        addresses = {name: f"http://127.0.0.1:{port}/metrics" for name, port in self._metrics.items()}
        addresses["gateway"] = f"{self.url}/metrics"
        told = {}
        async with httpx.AsyncClient(timeout=_ASK_S, trust_env=False) as http:
            for name, address in addresses.items():
                try:
                    told[name] = (await http.get(address)).text
                except httpx.HTTPError:
                    told[name] = ""
        return told

    def kill(self, worker: str) -> None:
        """Without a warning; it is none of the workers any more."""
        process = self._running.pop(worker)
        process.kill()
        process.wait(_STOP_S)
        del self.workers[worker], self._metrics[worker]

    def stop(self) -> dict[str, int]:
        """In the reverse order. Returns exit codes; negative: the signal that ended it."""
        codes = {}
        for name in reversed(list(self._running)):
            process = self._running[name]
            process.send_signal(signal.SIGTERM)
            try:
                codes[name] = process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait(_STOP_S)
        self._running.clear()
        return codes

    def _service(self, service: str, name: str = "", **settings: object) -> None:
        name = name or service
        shared = {"nats_url": self.nats_url, "parent_pid": os.getpid()}
        if service == "worker":
            self._metrics[name] = free_port()
            shared["metrics_port"] = self._metrics[name]
        given = [f"--{key.replace('_', '-')}={value}" for key, value in (shared | settings).items()]
        self._run(name, [sys.executable, "-m", "turboserve", service, *given])

    def _run(self, name: str, command: list[str]) -> None:
        with self._log(name).open("wb") as log:
            self.started_at[name] = time.monotonic()
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                preexec_fn=_die_with_parent,
            )

    def _log(self, name: str) -> Path:
        return self._out / "logs" / f"{name}.log"


def _die_with_parent() -> None:
    _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
