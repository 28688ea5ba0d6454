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

from services.worker import curve, measure, report, runner
from services.worker.commit import Desk
from services.worker.control import Control
from services.worker.device import Device
from services.worker.encode import EncodeSettings
from services.worker.engine import Engine, Made
from services.worker.measure import Measured
from services.worker.models import UnknownModel, WeightsError
from services.worker.report import Reporter
from services.worker.roster import Roster
from services.worker.runner import NoSuchDevice, Runner
from services.worker.settings import WorkerSettings
from shared.chunk_log import ChunkLog
from shared.ids import InvalidName, check_name, new_instance_id
from shared.process import Process, StartupError, run
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
            await _work(process, reporter, log, device, *loaded)
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
    loaded: Runner,
    measured: Measured,
) -> None:
    settings, loop = process.settings, asyncio.get_running_loop()

    def on_change() -> None:
        loop.call_soon_threadsafe(reporter.changed.set)

    def deliver(made: Made) -> None:
        loop.call_soon_threadsafe(control.deliver, made)

    roster = Roster(measure.chunk_duration_s(loaded.spec), on_change)
    desk = Desk(process.bus, log, roster, loaded.spec, settings.cell, process.instance)
    control = Control(desk, loaded, settings.slots, on_empty=process.stopping.set, on_state=reporter.say)
    engine = Engine(loaded, roster, _encode_settings(settings), deliver, measured.curves(), settings.slots)
    beating = process.spawn("engine", _beat(device, engine))
    await control.start()
    _fill_in(reporter, settings, roster, loaded, measured)
    await process.ready(f"{loaded.spec.name} on {loaded.device}, capacity {reporter.capacity}")
    await process.stopping.wait()
    reporter.say("draining")
    await _finish(control, engine, beating, settings.drain_s)


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


async def _load_unless_stopped(
    process: Process[WorkerSettings], device: ThreadPoolExecutor
) -> tuple[Runner, Measured] | None:
    loading = asyncio.get_running_loop().run_in_executor(device, _load, process.settings)
    stopped = asyncio.ensure_future(process.stopping.wait())
    waiting: set[asyncio.Future[Any]] = {loading, stopped}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return loading.result() if loading.done() else None


def _load(settings: WorkerSettings) -> tuple[Runner, Measured]:
    """On the device thread. Raises `StartupError`."""
    try:
        loaded = runner.load(settings.model_loader, settings.model, settings.device, settings.weights_path)
    except (UnknownModel, WeightsError) as error:
        raise StartupError(str(error)) from error
    except NoSuchDevice as error:
        raise StartupError(f"TURBOSERVE_WORKER_DEVICE={settings.device}: {error}") from None
    except ImportError as error:
        raise StartupError(f"TURBOSERVE_WORKER_MODEL_LOADER={settings.model_loader}: {error}") from error
    return loaded, measure.measure(loaded, _encode_settings(settings), settings.max_batch)


def _encode_settings(settings: WorkerSettings) -> EncodeSettings:
    return EncodeSettings(settings.encode_preset, settings.encode_crf, settings.encode_max_bits_per_pixel)


def _reporter(process: Process[WorkerSettings]) -> Reporter:
    settings = process.settings
    return Reporter(
        bus=process.bus,
        cell=settings.cell,
        worker=process.instance,
        incarnation=new_instance_id("run"),
        slots=settings.slots,
        model=report.unknown_model(settings.model),
    )


def _fill_in(
    reporter: Reporter, settings: WorkerSettings, roster: Roster, loaded: Runner, measured: Measured
) -> None:
    """The worker is ready: its reports now say of what, and how fast."""
    spec = loaded.spec
    reporter.model = report.model_report(spec)
    reporter.curve = measured.report()
    reporter.capacity = settings.capacity or curve.capacity(
        measured.default, measure.chunk_duration_s(spec), settings.slots
    )
    reporter.device, reporter.roster = Device(loaded.device), roster
    reporter.say("ready")
