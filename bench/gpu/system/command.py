"""The command line, the start-up, and parts that fail without taking the others along."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import torch

from bench.gpu.lab import Setting
from bench.gpu.machine import machine
from bench.gpu.report import Report
from bench.gpu.system.alone import alone
from bench.gpu.system.fleet import Fleet
from bench.gpu.system.kill import kill
from bench.gpu.system.moves import moves
from bench.gpu.system.play import play
from bench.gpu.system.run import Run, memory_in_use
from bench.gpu.system.services import POLICY, NotStarted, Services
from bench.gpu.system.worker_settings import setting, worker_settings
from services.worker.device import Device
from turboserve.client import Client

PARTS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "play": play,
    "moves": moves,
    "alone": alone,
    "kill": kill,
}
_UNLESS_SAID = ["play", "moves"]


def main(given: list[str] | None = None) -> None:
    asked = _arguments(given)
    devices = asked.devices or _devices(asked.workers)
    report = Report("system", machine(torch.device(devices[0])))
    report.begin()
    sys.exit(asyncio.run(_run(asked, devices, report)))


def part(setting: Setting, report: Report, out: Path) -> None:
    """As a part among the others: default options, or a rehearsal on the CPU."""
    _as_part(["play", "moves"], setting, report, out)


def moves_part(setting: Setting, report: Report, out: Path) -> None:
    _as_part(["moves"], setting, report, out)


def _as_part(parts: list[str], setting: Setting, report: Report, out: Path) -> None:
    given = [*parts, "--out", str(out)]
    if setting.tiny:
        given += "--model tiny --sizes 1 --moves 8 --seconds 4 --settle 2 --minutes 3".split()
    asked = _arguments(given)
    if asyncio.run(_run(asked, _devices(asked.workers), report)):
        raise SystemExit(1)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.system", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", choices=[*PARTS, []], help="in this order; play and moves unless said")
    add("--out", type=Path, default=Path("bench-gpu"), help="folder for system.json, logs and metrics")
    add("--model", default="wan2.1-t2v-1.3b", help="tiny, sprites, or a preset")
    add("--weights", default="random:0", help="weights_path of a preset")
    add("--geometry", default="", help="of a preset: WIDTHxHEIGHT, WIDTHxHEIGHTxLATENTFRAMES or small")
    add("--workers", type=int, default=2)
    add("--devices", nargs="*", help="one for each worker; cuda:0, cuda:1, … where there are GPUs")
    add("--worker", type=setting, action="append", default=[], metavar="NAME=VALUE", help="of the workers")
    add("--policy", default=POLICY, help="of placement; with ll-resume sessions come back elsewhere, too")
    add("--minutes", type=float, default=9.0, help="for everything")
    add("--start-limit", type=float, default=240.0, help="seconds until all workers are ready")
    add("--settle", type=float, default=6.0, help="seconds that sessions play before anything counts")
    add("--steer-every", type=float, default=10.0, help="seconds between a viewer's prompts, about; 0: never")
    play_options = parser.add_argument_group("play")
    play_options.add_argument("--rungs", nargs="*", help="those to try; else all of the model's")
    play_options.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 3, 4], help="sessions a worker")
    play_options.add_argument("--seconds", type=float, default=30.0, help="that each size plays")
    alone_options = parser.add_argument_group("alone", "one session; with --rungs and --seconds too")
    alone_options.add_argument("--prompts", type=int, default=30, help="that it shows")
    alone_options.add_argument("--prompt-every", type=float, default=1.6, help="seconds, about")
    move_options = parser.add_argument_group("moves")
    move_options.add_argument("--rung", default="", help="of the sessions; the model's default unless said")
    move_options.add_argument("--moves", type=int, default=200)
    move_options.add_argument("--sessions", type=int, default=6)
    move_options.add_argument("--active", type=int, default=4, help="of them; of `kill` all")
    move_options.add_argument("--beat", type=float, default=0.4, help="seconds from move to move, at least")
    move_options.add_argument("--rotate-every", type=int, default=5, help="beats from suspend to suspend")
    away = "there is more room elsewhere for who comes back: with --policy ll-resume it goes there"
    move_options.add_argument("--away", action="store_true", help=away)
    told = "the killed worker's end is told, as by an autoscaler that had started it; else it is to be missed"
    parser.add_argument_group("kill").add_argument("--told", action="store_true", help=told)
    asked = parser.parse_args(given)
    asked.parts = asked.parts or _UNLESS_SAID
    if asked.workers < 2 and {"moves", "kill"} & {*asked.parts}:
        parser.error("moves and kill need two workers")
    if "kill" in asked.parts[:-1]:
        parser.error("kill is to be the last part")
    return asked


def _devices(workers: int) -> list[str]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{number % gpus}" if gpus else "cpu" for number in range(workers)]


async def _run(asked: argparse.Namespace, devices: list[str], report: Report) -> int:
    asked.out.mkdir(parents=True, exist_ok=True)
    tried = max([*asked.sizes, asked.active])  # whatever the worker thinks of it
    services = Services(asked.out, devices, asked.model, worker_settings(asked, tried), asked.policy)
    run: Run | None = None
    failed = False
    try:
        with tempfile.TemporaryDirectory() as data:
            try:
                run = await _start(asked, services, report, Path(data))
                for name in asked.parts:
                    failed |= not await _part(run, name)
            finally:
                await _leave(asked.out, services, run, report)
    except (NotStarted, TimeoutError) as error:
        report.row("start", f"failed: {error or 'no time left'}"[:2000])
        failed = True
    finally:
        report.write(asked.out)
    return 1 if failed or run is None or run.problems else 0


async def _start(asked: argparse.Namespace, services: Services, report: Report, data: Path) -> Run:
    ends_at = time.monotonic() + 60 * asked.minutes
    gpus = {worker: Device(at) for worker, at in services.workers.items() if at.startswith("cuda")}
    idle_memory = memory_in_use(gpus)
    async with asyncio.timeout(min(asked.start_limit, 60 * asked.minutes)):
        bus = await services.start(data)
        fleet = Fleet(bus)
        await fleet.start()
        try:
            await fleet.ready(len(services.workers), services.check)
            await services.answers()
        except TimeoutError:
            logs = "\n".join(services.tail(worker) for worker in services.workers)
            raise NotStarted(f"not ready after {asked.start_limit:.0f} s:\n{logs}") from None
    run = Run(asked, services, fleet, Client(services.url), report, ends_at, gpus, idle_memory)
    _tell_start(run)
    return run


def _tell_start(run: Run) -> None:
    for worker, told in sorted(run.fleet.reports.items()):
        took_s = run.fleet.ready_at[worker] - run.services.started_at[worker]
        phases = [line.partition("loaded: ")[2] for line in run.services.log_lines(worker, "loaded: ")]
        run.report.row(f"{worker}: start to ready", f"{took_s:.1f} s ({'; '.join(phases)})", worker, took_s)
        run.report.row(
            f"{worker}: {told.device.name or told.device.kind}, state; slots; transports",
            f"{told.model.state_bytes:,} bytes; {told.slots}; {', '.join(told.transports)}",
        )
        run.report.figures[f"{worker} curve"] = [
            {"rung": point.rung, "rows": point.batch, "chunk_s": point.chunk_s} for point in told.curve
        ]


async def _part(run: Run, name: str) -> bool:
    """Whether it came to its end; what it found until then has been told."""
    if run.left_s() < 10:
        run.report.row(name, "no time left")
        return False
    try:
        async with asyncio.timeout(run.left_s()):
            await PARTS[name](run)
    except Exception as error:  # noqa: BLE001 what the other parts find is still wanted
        run.report.row(name, f"failed: {error!r}"[:600])
        return False
    finally:
        run.report.write(run.asked.out)
    return True


async def _leave(out: Path, services: Services, run: Run | None, report: Report) -> None:
    told = (await services.metrics()).items()
    (out / "metrics.txt").write_text("".join(f"## {name}\n{text}\n" for name, text in told))
    if run is not None:
        await run.client.close()
        await run.fleet.close()
    codes = services.stop()
    report.figures["exit_codes"] = codes
    if any(codes.values()):
        report.notes.append(f"services that did not end well: {codes}")
