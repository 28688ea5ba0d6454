"""When an ended worker's memory is let go, which may stop this worker's GPU for half a second."""

from __future__ import annotations

import asyncio
import contextlib

import nats.errors

from services.worker.errands import Errands
from services.worker.holdings import unsubscribe
from services.worker.planning import Planning, Quiet
from shared.bus import Bus, BusAway, Meta
from shared.contracts.fleet import LoadReport
from shared.contracts.subjects import LOAD_REPORT

_LIMIT_S, _STILL_S = 6.0, 0.6


async def quiet_moment(errands: Errands, planning: Planning, bus: Bus, cell: str) -> None:
    """Until every chunk here is in time though the device stands still for a while, or a worker of the cell
    starts: the memory may be its GPU's, and it counts within seconds what is free there. `_LIMIT_S` at most:
    then it has to be, whoever plays.
    """
    starting = asyncio.Event()

    def hear(report: LoadReport, _: Meta) -> None:
        if report.state == "starting":
            starting.set()

    with contextlib.suppress(RuntimeError, BusAway, nats.errors.Error):
        listening = await bus.subscribe(LOAD_REPORT, hear, cell=cell)
        moment: asyncio.Future[bool] = asyncio.wrap_future(errands.put(lambda: Quiet(planning, _STILL_S)))
        start: asyncio.Future[bool] = asyncio.create_task(starting.wait())
        try:
            await asyncio.wait((moment, start), timeout=_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            moment.cancel()
            start.cancel()
            await unsubscribe(listening)
