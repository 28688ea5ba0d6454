"""`turboserve worker`: one process, one device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from services.worker import early, loading, report
from services.worker.assembly import Assembly, assemble
from services.worker.device import Device
from services.worker.engine import Engine
from services.worker.loading import Loaded
from services.worker.report import Reporter
from services.worker.settings import WorkerSettings
from services.worker.transfer.choose import wished
from shared.chunk_log import ChunkLog
from shared.ids import InvalidName, check_name, new_instance_id
from shared.process import Process, run
from shared.settings import SettingsError, load

EXIT_USAGE = 2
_THREADS = ("device", "encode", "transfer", "early")
_STEP_END_S = 2.0  # for a step that nobody wants any more: it can't be interrupted


def main(given: Mapping[str, object]) -> int:
    """`given`: settings from the command line, None for those not given. Returns the exit code."""
    try:
        settings = load(WorkerSettings, "worker", os.environ, given)
        worker = check_name("worker_id", settings.worker_id or new_instance_id("worker"))
        _check_transports(settings.transports)
    except (SettingsError, InvalidName) as error:
        print(f"turboserve worker: {error}", file=sys.stderr)
        return EXIT_USAGE
    early.begin(settings.device)
    exit_code = run("worker", settings, serve, instance=worker)
    if any(thread.name.startswith(_THREADS) for thread in threading.enumerate()):
        os._exit(exit_code)  # what hangs in a model or a driver can't be ended, and Python would wait for it
    return exit_code


def _check_transports(kinds: str) -> None:
    """Before a model is loaded for them."""
    try:
        wished(kinds)
    except ValueError as error:
        raise SettingsError(f"TURBOSERVE_WORKER_TRANSPORTS={kinds!r}: {error}") from None


async def serve(process: Process[WorkerSettings]) -> None:
    """The worker's life: load, measure, work, finish what is in hand. Its last word is said however that
    ends: sessions go on elsewhere at once, not once it has been silent.
    """
    reporter = _reporter(process)
    reporting = process.spawn("reports", reporter.run())
    log = ChunkLog(process.bus, process.settings.cell)
    await log.ensure()
    device = ThreadPoolExecutor(1, thread_name_prefix="device")
    try:
        work = asyncio.get_running_loop().run_in_executor(device, loading.load, process.settings)
        loaded = await process.unless_stopped(work)
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
    sys.setswitchinterval(early.SWITCH_S)
    worker = assemble(process, reporter, log, loaded)
    beating = process.spawn("engine", _beat(device, worker.engine))
    await worker.mover.start()
    await worker.control.start()
    _fill_in(reporter, worker, loaded)
    await process.ready(
        f"{loaded.runner.spec.name} on {loaded.runner.device}, capacity {loaded.capacity},"
        f" {loaded.room.hot} hot slots and {loaded.room.host} in host memory"
    )
    process.spawn("links ahead", worker.links_ahead.run())
    await process.stopping.wait()
    # Of a worker that failed nobody waits for what it still finishes: the log takes it if it is first.
    reporter.say("stopped" if process.failed else "draining")
    await _finish(worker, beating, process.settings.drain_s)


async def _beat(device: ThreadPoolExecutor, engine: Engine) -> None:
    await asyncio.get_running_loop().run_in_executor(device, engine.run)


async def _finish(worker: Assembly, beating: asyncio.Task[None], drain_s: float) -> None:
    """Begin nothing new, bring the chunks in hand into the log if `drain_s` suffices, let every copy go."""
    await worker.control.refuse_all()
    await worker.mover.close()
    worker.engine.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await asyncio.wait([beating])
            await worker.holdings.idle()
            if (cold := worker.holdings.desk.cold) is not None:
                await cold.idle()
    worker.engine.abandon()
    await asyncio.wait([beating], timeout=_STEP_END_S)
    await worker.holdings.close()


def _reporter(process: Process[WorkerSettings]) -> Reporter:
    settings = process.settings
    return Reporter(
        bus=process.bus,
        cell=settings.cell,
        worker=process.instance,
        incarnation=settings.incarnation or new_instance_id("run"),
        node=settings.node,
        model=report.unknown_model(settings.model),
    )


def _fill_in(reporter: Reporter, worker: Assembly, loaded: Loaded) -> None:
    """The worker is ready: its reports now say of what, and how fast."""
    reporter.model = report.model_report(loaded.runner.spec)
    reporter.curve, reporter.capacity = loaded.measured.report(), loaded.capacity
    reporter.slots = loaded.room.copies
    reporter.device, reporter.roster = Device(loaded.runner.device), worker.holdings.desk.roster
    reporter.transports = worker.mover.port.links.names
    reporter.say("ready")
