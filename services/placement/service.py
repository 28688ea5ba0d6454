"""Placement's service: what it knows put together, and every change of a session on its way to the world.

Requests come in through `requests`, time and reports through `reconcile`; both change sessions here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from services.placement import metrics
from services.placement.facts import CopyFailed, Event, Watched
from services.placement.fleet_view import FleetView
from services.placement.live import Live, in_trace_of
from services.placement.moves import Mover
from services.placement.operations import Operations
from services.placement.outbox import Publisher
from services.placement.outlook import worker_latencies_s
from services.placement.reconcile import Reconciler
from services.placement.records import Records
from services.placement.requests import Requests
from services.placement.resumes import Resumes
from services.placement.retiring import Retiring
from services.placement.room import Room, room_of
from services.placement.sessions import Changed, Decide, Sessions
from services.placement.settings import PlacementSettings
from services.placement.ticks import Ticks
from services.placement.transfers import Transfers
from services.placement.voice import Voice
from shared.bus import Bus
from shared.chunk_log import ChunkLog
from shared.contracts.fleet import FleetLoad, LoadReport, ModelReport, WorkerLoad
from shared.contracts.session import SessionView
from shared.decision_log import Recorder
from shared.latent_log import LatentLog
from shared.leadership import Leadership
from shared.process import Process, StartupError
from shared.store.engine import Store, StoreAway
from shared.store.rows import SessionRow

logger = logging.getLogger(__name__)

_LOAD_EVERY_S = 1.0
# A chunk log forgets by itself after its own, shorter time; what ended before this needs no care any more.
_LOG_HORIZON_S = 3600.0


class Placement:
    """The parts, and the questions that need several of them."""

    def __init__(self, process: Process[PlacementSettings], store: Store, leadership: Leadership) -> None:
        self.settings = process.settings
        self.instance = process.instance
        self.bus: Bus = process.bus
        self.leadership = leadership
        records = Records(store, leadership.lease, self.settings.cell, process.stopping.set)
        self.sessions = Sessions(records)
        self.fleet = FleetView(self.settings.worker_silent_s, time.monotonic())
        self.voice = Voice(self.bus, self.settings.cell, self.settings.command_timeout_s)
        self.mover = Mover(self)
        self.transfers = Transfers(self)
        self.resumes = Resumes(self)
        self.retiring = Retiring(self)
        self.ticks = Ticks(self)
        self.recorder = Recorder(self.bus, self.settings.cell, "placement", self.instance)
        self.publisher = Publisher(self.bus, store, self.settings.cell)
        self.chunk_log = ChunkLog(self.bus, self.settings.cell)
        self.latent_log = LatentLog(self.bus, self.settings.cell)
        self.nudged = asyncio.Event()
        self.draining: dict[str, str] = {}
        """Workers an operator drains, with their incarnation: nothing is placed there any more."""

    def rooms(self) -> list[Room]:
        active = self.sessions.active_on()
        return [room_of(report, active.get(report.worker, 0)) for report in self.reports()]

    def reports(self) -> list[LoadReport]:
        """Of the workers that are alive. One that was not told yet that it is drained counts as if it were,
        as does one that the autoscaler empties.
        """
        reports = [state.report for state in self.fleet.alive(time.monotonic())]
        drained = self.draining.items() & {(report.worker, report.incarnation) for report in reports}
        self.draining = dict(drained)
        leaving = self.draining.keys() | self.retiring.workers
        return [
            msgspec.structs.replace(report, state="draining") if report.worker in leaving else report
            for report in reports
        ]

    def models(self) -> Mapping[str, ModelReport | None]:
        return dict.fromkeys(self.settings.model_names) | self.fleet.models(time.monotonic())

    def view(self, row: SessionRow) -> SessionView:
        if row.status != "queued":
            return msgspec.structs.replace(row.view(), phase=self.fleet.phase(row))
        live = self.sessions.live.get(row.id)
        if live is not None and live.coming_to:
            return msgspec.structs.replace(row.view(), phase="resuming")
        waiting = self.ticks.waiting(row.id)
        return row.view(waiting.position, waiting.expected_wait_s)

    async def change(self, live: Live, decide: Decide) -> Changed:
        """Change a session, tell everybody, send its commands. Raises `Refused`."""
        changed = await self.sessions.change(live, decide)
        await self.announce(changed)
        self.voice.command(changed)
        return changed

    async def change_many(
        self, wanted: Sequence[tuple[Live, Sequence[Event]]], decision: str
    ) -> list[Changed]:
        """As `change`, for all that one decision changes. Raises `Refused`."""
        done = await self.sessions.change_many(wanted, decision)
        for changed in done:
            if changed.live is not None:
                with in_trace_of(changed.live):
                    self.voice.command(changed)
        await self.announce(*done)
        return done

    async def happen(self, live: Live, event: Event) -> None:
        """Something that nobody asked for. Raises `Refused`."""
        if isinstance(event, Watched):
            live.resuming = live.resuming or Watched
            self.ticks.stir()
            return
        if isinstance(event, CopyFailed):
            live.shun(live.row.worker, time.monotonic())
        with in_trace_of(live):
            await self.change(live, lambda _: [event])

    async def announce(self, *changes: Changed) -> None:
        """Tell whoever watches. What ran out of room, or made some, is looked at soon."""
        news = [changed for changed in changes if changed.row is not changed.before]
        for changed in news:
            _log(changed)
            await self.tell(changed.row, changed.live)
        if news:
            await self.voice.load(self.load())
            self.publisher.nudge()
            self.nudged.set()
            self.ticks.stir()

    async def tell(self, row: SessionRow, live: Live | None) -> None:
        """Whoever watches the session how it is now."""
        view = self.view(row)
        await self.voice.changed(view)
        if live is not None:
            live.told_phase = view.phase

    def load(self) -> FleetLoad:
        """Demand and what serves it, as the autoscaler sees it."""
        now = time.monotonic()
        active = self.sessions.active_on()
        rooms = self.rooms()
        count = dict.fromkeys(("queued", "active", "paused"), 0)
        for live in self.sessions.live.values():
            count[live.row.status] = count.get(live.row.status, 0) + 1
        for status, sessions in count.items():
            metrics.sessions.labels(status).set(sessions)
        return FleetLoad(
            placement=self.instance,
            active=count["active"],
            queued=count["queued"],
            paused=count["paused"],
            capacity=sum(room.capacity for room in rooms),
            workers=[_worker_load(report, active.get(report.worker, 0)) for report in self.reports()],
            models=list(self.fleet.models(now).values()),
            sent_at=time.time(),
            counts=self.sessions.tally.counts,
            rho_max=self.ticks.rho_max,
        )

    async def repeat_load(self) -> None:
        while True:
            await self.voice.load(self.load())
            await asyncio.sleep(_LOAD_EVERY_S)


def _worker_load(report: LoadReport, active: int) -> WorkerLoad:
    """`active`: sessions it owns, by placement's rows."""
    tiers = [copy.tier for copy in report.copies]
    return WorkerLoad(
        report.worker,
        report.state,
        report.capacity,
        active,
        len(report.copies),
        report.model.name,
        report.device,
        sum(copy.state == "paused" for copy in report.copies),
        tiers.count("device"),
        tiers.count("host"),
        report.transports,
        report.slots,
        list(worker_latencies_s(report)),
        report.device.kind,
        report.node,
        report.started_at,
    )


def _log(changed: Changed) -> None:
    row, before = changed.row, changed.before
    what = {"session": row.id, "worker": row.worker, "epoch": row.epoch, "reason": row.reason}
    if before is None or before.status != row.status:
        logger.info("%s → %s", before.status if before else "new", row.status, extra=what)
    elif before.worker != row.worker:
        logger.info("another worker has it", extra=what)


async def serve(process: Process[PlacementSettings], store: Store, leadership: Leadership) -> None:
    """Until the process is told to stop. The caller owns the store and the lease."""
    placement = Placement(process, store, leadership)
    try:
        await placement.sessions.load(time.time() - placement.settings.ended_log_linger_s - _LOG_HORIZON_S)
    except StoreAway as error:
        raise StartupError(str(error)) from None
    reconciler = Reconciler(placement)
    requests = Requests(placement)
    await reconciler.listen()
    await requests.listen()
    await placement.mover.listen()
    await Operations(placement).listen()
    for name, work in _loops(placement, reconciler).items():
        process.spawn(name, work)
    await process.ready(f"{len(placement.sessions.live)} sessions in {store.where}")
    await process.stopping.wait()
    await process.say("stopping")
    await requests.close()
    await placement.resumes.close()
    await placement.transfers.close()
    await placement.mover.close()
    await placement.voice.close()
    with contextlib.suppress(Exception):
        await placement.publisher.publish_some()


def _loops(placement: Placement, reconciler: Reconciler) -> dict[str, Coroutine[Any, Any, None]]:
    return {
        "reconcile": reconciler.run(),
        "decide": placement.ticks.run(),
        "record decisions": placement.recorder.run(),
        "publish the outbox": placement.publisher.run(),
        "repeat the load": placement.repeat_load(),
    }
