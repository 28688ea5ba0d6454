"""`turboserve worker`: one process, one device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from services.worker import loading, measure, report
from services.worker.cold import Cold
from services.worker.commit import Desk
from services.worker.control import Control
from services.worker.copies import Copy
from services.worker.device import Device
from services.worker.engine import Engine, Made
from services.worker.loading import Loaded
from services.worker.models.protocol import ModelSpec
from services.worker.report import Reporter
from services.worker.roster import Roster
from services.worker.settings import WorkerSettings
from services.worker.states import States
from shared.chunk_log import ChunkLog
from shared.ids import InvalidName, check_name, new_instance_id
from shared.latent_log import LatentLog, LatentSettings
from shared.process import Process, run
from shared.settings import SettingsError, load

EXIT_USAGE = 2
_THREADS = ("device", "encode")
_STEP_END_S = 2.0  # for a step that nobody wants any more: it can't be interrupted


def main(given: Mapping[str, object]) -> int:
    """`given`: settings from the command line, None for those not given. Returns the exit code."""
    try:
        settings = load(WorkerSettings, "worker", os.environ, given)
        worker = check_name("worker_id", settings.worker_id or new_instance_id("worker"))
    except (SettingsError, InvalidName) as error:
        print(f"turboserve worker: {error}", file=sys.stderr)
        return EXIT_USAGE
    exit_code = run("worker", settings, serve, instance=worker)
    if any(thread.name.startswith(_THREADS) for thread in threading.enumerate()):
        os._exit(exit_code)  # what hangs in the model can't be ended, and Python would wait for it
    return exit_code


async def serve(process: Process[WorkerSettings]) -> None:
    """The worker's life: load, measure, work, finish what is in hand."""
    reporter = _reporter(process)
    reporting = process.spawn("reports", reporter.run())
    log = ChunkLog(process.bus, process.settings.cell)
    await log.ensure()
    device = ThreadPoolExecutor(1, thread_name_prefix="device")
    try:
        loaded = await _load_unless_stopped(process, device)
        if loaded is not None:
            await _work(process, reporter, log, device, loaded)
    finally:
        device.shutdown(wait=False, cancel_futures=True)
    reporting.cancel()
    reporter.state = "stopped"
    await reporter.publish()


async def _work(
    process: Process[WorkerSettings],
    reporter: Reporter,
    log: ChunkLog,
    device: ThreadPoolExecutor,
    loaded: Loaded,
) -> None:
    settings, loop = process.settings, asyncio.get_running_loop()

    def on_change() -> None:
        loop.call_soon_threadsafe(reporter.changed.set)

    def deliver(made: Made) -> None:
        loop.call_soon_threadsafe(control.deliver, made)

    def lost(copy: Copy) -> None:
        roster.lost(copy)
        loop.call_soon_threadsafe(control.seek, copy)

    model = loaded.runner
    roster = Roster(measure.chunk_duration_s(model.spec), on_change)
    cold = _cold(process, model.spec)
    desk = Desk(process.bus, log, roster, model.spec, settings.cell, process.instance, cold)
    control = Control(desk, model, loaded.room, on_empty=process.stopping.set, on_state=reporter.say)
    states = States(model, loaded.pool, loaded.room.hot)
    if cold is not None:
        states.on_lost = lost
        process.spawn("cold tier", cold.run())
    encode = loading.encode_settings(settings)
    engine = Engine(model, states, roster, encode, deliver, loaded.measured.curves(), cold is not None)
    beating = process.spawn("engine", _beat(device, engine))
    await control.start()
    _fill_in(reporter, roster, loaded)
    await process.ready(
        f"{model.spec.name} on {model.device}, capacity {loaded.capacity},"
        f" {loaded.room.hot} hot slots and {loaded.room.host} in host memory"
    )
    await process.stopping.wait()
    reporter.say("draining")
    await _finish(control, engine, beating, settings.drain_s)


def _cold(process: Process[WorkerSettings], spec: ModelSpec) -> Cold | None:
    settings = process.settings
    if settings.cold_tier == "off" or not spec.recent_chunks:
        return None
    limits = LatentSettings(settings.cold_tier_max_age_s, int(settings.cold_tier_max_gib * 2**30))
    return Cold(LatentLog(process.bus, settings.cell, limits), spec)


async def _beat(device: ThreadPoolExecutor, engine: Engine) -> None:
    await asyncio.get_running_loop().run_in_executor(device, engine.run)


async def _finish(control: Control, engine: Engine, beating: asyncio.Task[None], drain_s: float) -> None:
    """Begin nothing new, bring the chunks in hand into the log if `drain_s` suffices, let every copy go."""
    await control.refuse_all()
    engine.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await asyncio.wait([beating])
            await control.idle()
    engine.abandon()
    await asyncio.wait([beating], timeout=_STEP_END_S)
    await control.close()


async def _load_unless_stopped(process: Process[WorkerSettings], device: ThreadPoolExecutor) -> Loaded | None:
    loaded = asyncio.get_running_loop().run_in_executor(device, loading.load, process.settings)
    stopped = asyncio.ensure_future(process.stopping.wait())
    waiting: set[asyncio.Future[Any]] = {loaded, stopped}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return loaded.result() if loaded.done() else None


def _reporter(process: Process[WorkerSettings]) -> Reporter:
    settings = process.settings
    return Reporter(
        bus=process.bus,
        cell=settings.cell,
        worker=process.instance,
        incarnation=new_instance_id("run"),
        model=report.unknown_model(settings.model),
    )


def _fill_in(reporter: Reporter, roster: Roster, loaded: Loaded) -> None:
    """The worker is ready: its reports now say of what, and how fast."""
    reporter.model = report.model_report(loaded.runner.spec)
    reporter.curve, reporter.capacity = loaded.measured.report(), loaded.capacity
    reporter.slots = loaded.room.copies
    reporter.device, reporter.roster = Device(loaded.runner.device), roster
    reporter.say("ready")
