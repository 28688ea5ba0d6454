"""`turboserve node`: starts a worker for each GPU, tells of those that end, and hands their sessions over
when it is told to end itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping

from services.node.settings import NodeSettings
from services.node.workers import Workers
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.fleet import DrainWorker, WorkerDrained, WorkerExited
from shared.contracts.subjects import DRAIN_WORKER, WORKER_EXITED
from shared.ids import InvalidName, check_name, new_instance_id
from shared.process import Process, run
from shared.settings import SettingsError, load

logger = logging.getLogger(__name__)

EXIT_USAGE = 2
_FINISH_S = 10.0  # of the grace: for workers that weren't handed over, to finish the chunks in hand
_KILL_S = 2.0  # of that: for those that don't
_FORCE_S = 20.0  # before that: whoever has to go then goes, though nobody can take its sessions
_ASK_AGAIN_S = 1.0
_LEAVES_S = 3.0
_TELL_S = 2.0


def main(given: Mapping[str, object]) -> int:
    """`given`: settings from the command line, None for those not given. Returns the exit code."""
    try:
        settings = load(NodeSettings, "node", os.environ, given)
        name = settings.name or new_instance_id("node")
        check_name("name", f"{name}-{settings.workers - 1}")  # a worker's, which is longer
    except (SettingsError, InvalidName) as error:
        print(f"turboserve node: {error}", file=sys.stderr)
        return EXIT_USAGE
    codes: list[int] = []

    async def body(process: Process[NodeSettings]) -> None:
        codes.append(await supervise(process))

    return run("node", settings, body, instance=name) or codes[0]


async def supervise(process: Process[NodeSettings]) -> int:
    """Until all workers have ended. Returns the first exit code that was not 0."""
    told: list[asyncio.Task[None]] = []
    workers = Workers(
        process.settings,
        process.instance,
        lambda exited: told.append(_tell(process, exited)),
    )
    try:
        await workers.start()
        ended = asyncio.ensure_future(workers.ended())
        await process.ready(f"{process.settings.workers} workers")
        await process.unless_stopped(ended)
        if not ended.done():
            await process.say("stopping", "handing over")
            await _hand_over(process, workers, ended)
    finally:
        workers.kill(workers.living)
    if told:
        await asyncio.wait(told, timeout=_TELL_S)
    return _as_status(workers.exit_code)


def _tell(process: Process[NodeSettings], exited: WorkerExited) -> asyncio.Task[None]:
    """Placement hears of it at once, instead of by silence."""
    worker = exited.worker
    level = logging.INFO if exited.exit_code == 0 else logging.ERROR
    logger.log(level, "%s ended with exit code %s", worker, exited.exit_code)
    address = WORKER_EXITED.at(cell=process.settings.cell, worker=worker)

    async def tell() -> None:
        await process.bus.publish(address, exited)

    return process.spawn(f"tell of {worker}", tell())


async def _hand_over(process: Process[NodeSettings], workers: Workers, ended: asyncio.Future[None]) -> None:
    """Placement moves the sessions and lets the workers go; what is left when time runs short ends as it
    is.
    """
    until = time.monotonic() + process.settings.grace_s
    drain_s = process.settings.grace_s - _FINISH_S
    drains = [
        process.spawn(f"drain {worker}", _drain(process, workers, worker, drain_s))
        for worker in workers.living
    ]
    if drain_s > 0:
        await asyncio.wait({ended}, timeout=drain_s)
    for drain in drains:
        drain.cancel()
    workers.terminate(workers.living)
    await asyncio.wait({ended}, timeout=max(0.0, until - time.monotonic() - _KILL_S))
    if left := workers.living:
        logger.error("killed, since they did not end in time: %s", ", ".join(left))
        workers.kill(left)
        await asyncio.wait({ended}, timeout=_KILL_S)


async def _drain(process: Process[NodeSettings], workers: Workers, worker: str, deadline_s: float) -> None:
    """One that holds nothing (any more), that placement doesn't know or can't be asked about, ends at once;
    any other by itself, as soon as it holds nothing.
    """
    try:
        answer = await _ask(process, worker, time.monotonic() + deadline_s)
    except (BusAway, NoAnswer, Refused) as error:
        logger.warning("%s is not drained, it finishes what is in hand: %s", worker, error)
        workers.terminate([worker])
        return
    logger.info("%s: %d sessions moved, %d copies left", worker, len(answer.moved), answer.copies)
    await asyncio.sleep(_LEAVES_S)  # placement told it to; one that still starts didn't hear it
    if not answer.copies:
        workers.terminate([worker])


async def _ask(process: Process[NodeSettings], worker: str, until: float) -> WorkerDrained:
    """While no other worker could take its sessions it goes on with them: another node may be starting.
    Raises BusAway, NoAnswer, Refused.
    """
    address, refused = DRAIN_WORKER.at(cell=process.settings.cell), False
    while True:
        left_s = until - time.monotonic()
        force = left_s < _FORCE_S
        try:
            return await process.bus.request(address, DrainWorker(worker, force=force), max(left_s, 0.1))
        except Refused as error:
            if force or error.refusal.code != "only_worker":
                raise
            logger.log(logging.DEBUG if refused else logging.INFO, "%s goes on: %s", worker, error)
            refused = True
        await asyncio.sleep(_ASK_AGAIN_S)


def _as_status(exit_code: int) -> int:
    """As a shell says it: 128 and the signal's number where one ended the process."""
    return exit_code if exit_code >= 0 else 128 - exit_code
