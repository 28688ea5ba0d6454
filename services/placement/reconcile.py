"""Repeating what should be true: reports, viewers and time against the rows, twice a second and when
something changed.

No step depends on one before it. Whatever fails is tried again in the next round.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from services.placement import hand_over, metrics, notice
from services.placement.facts import Event, OwnerLost
from services.placement.live import Live, in_trace_of
from services.placement.notice import Asked
from services.placement.room import OVER
from services.placement.strays import Strays
from services.placement.viewers import EXPIRY_S
from shared.bus import BusAway, Meta, Refused
from shared.contracts.fleet import FleetPlan, LoadReport, WorkerExited
from shared.contracts.stream import ViewerReport
from shared.contracts.subjects import FLEET_PLAN, LOAD_REPORT, VIEWERS, WORKER_EXITED

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

_EVERY_S = 0.5
_AT_MOST_EVERY_S = 0.02
_LOGS_PER_ROUND = 20


class Reconciler:
    """Listens to reports, and runs rounds."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._strays = Strays(placement)
        self._last_problem = ""
        self._load_said: tuple[object, ...] = ()

    async def listen(self) -> None:
        cell, bus = self._placement.settings.cell, self._placement.bus
        await bus.subscribe(LOAD_REPORT, self._hear_worker, cell=cell)
        await bus.subscribe(WORKER_EXITED, self._hear_exit, cell=cell)
        await bus.subscribe(FLEET_PLAN, self._hear_plan, cell=cell)
        await bus.subscribe(VIEWERS, self._hear_viewers, cell=cell)

    def _hear_worker(self, report: LoadReport, meta: Meta) -> None:
        placement, worker = self._placement, report.worker
        before = placement.fleet.gist(worker)
        if meta.tokens["worker"] != worker or not placement.fleet.report(report, time.monotonic()):
            return
        rephased = False
        for copy in report.copies:
            live = placement.sessions.live.get(copy.session)
            if live is not None and copy.epoch == live.row.epoch:
                live.next_chunk = max(live.next_chunk, copy.next_chunk)
                rephased |= self._rephased(live)
        placement.mover.hear_report(report)
        over = any(copy.state in OVER for copy in report.copies)
        changed = placement.fleet.gist(worker) != before
        if changed:
            placement.ticks.stir()
        if changed or over or rephased or self._strays.any_in(report):
            placement.nudged.set()

    def _rephased(self, live: Live) -> bool:
        """Whether its owner says something else of it than its viewers heard."""
        return live.row.status == "active" and self._placement.fleet.phase(live.row) != live.told_phase

    def _hear_exit(self, exited: WorkerExited, _: Meta) -> None:
        if self._placement.fleet.exited(exited, time.monotonic()):
            self._look_soon()

    def _hear_plan(self, plan: FleetPlan, _: Meta) -> None:
        now, fleet = time.monotonic(), self._placement.fleet
        ended = [exited.worker for exited in plan.ended if fleet.exited(exited, now)]
        if self._placement.retiring.hear(plan) or ended:
            self._look_soon()

    def _look_soon(self) -> None:
        self._placement.ticks.stir()
        self._placement.nudged.set()

    def _hear_viewers(self, report: ViewerReport, meta: Meta) -> None:
        live = self._placement.sessions.live.get(meta.tokens["session"])
        if live is None or live.row.tenant != meta.tokens["tenant"]:
            return
        live.viewers.report(report, time.monotonic())
        if report.viewers and live.row.paused_by == "unwatched":
            self._placement.nudged.set()

    async def run(self) -> None:
        while True:
            self._placement.nudged.clear()
            await self._round()
            await asyncio.sleep(_AT_MOST_EVERY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S - _AT_MOST_EVERY_S):
                    await self._placement.nudged.wait()

    async def _round(self) -> None:
        placement = self._placement
        placement.fleet.observe(time.monotonic())
        self._repeat_commands()
        steps: list[Callable[[], Awaitable[None]]] = [
            placement.sessions.settle_doubtful,
            self._strays.take_in,
            self._watch_owners,
            self._watch_viewers,
            self._tell_phases,
            self._forget_logs,
        ]
        problem = ""
        for step in steps:
            try:
                await step()
            except (Refused, BusAway) as error:
                problem = str(error)
            except Exception as error:
                problem = repr(error)
                if problem != self._last_problem:
                    logger.exception("a step of a round failed")
        if problem and problem != self._last_problem:
            logger.warning("not everything could be done, trying again: %s", problem)
        self._last_problem = problem
        self._strays.drop_unneeded(time.monotonic(), settled=not problem)
        placement.retiring.empty()
        placement.transfers.forget_ended()
        await self._say_load()

    async def _say_load(self) -> None:
        load = self._placement.load()
        # A device's memory and power change all the time: they go with the load that is repeated anyway.
        workers = [msgspec.structs.replace(worker, device=None) for worker in load.workers]
        gist = (load.active, load.queued, load.paused, load.capacity, workers)
        if gist != self._load_said:
            self._load_said = gist
            await self._placement.voice.load(load)

    def _still(self) -> Iterator[Live]:
        """Sessions that nobody is changing at this moment."""
        return (live for live in list(self._placement.sessions.live.values()) if not live.lock.locked())

    def _repeat_commands(self) -> None:
        now = time.monotonic()
        for live in self._still():
            if now >= live.own_due_at and notice.must_repeat(live.row, self._placement.fleet, live.move_id):
                metrics.repeats.labels("own").inc(live.own_tries > 0)
                with in_trace_of(live):
                    self._placement.voice.own(live)

    async def _watch_owners(self) -> None:
        for live in self._still():
            event = self._of_owner(live)
            if event is not None:
                await self._placement.happen(live, event)

    def _of_owner(self, live: Live) -> Event | None:
        asked = Asked(live.own_tries, live.refusals)
        fleet, connected_s, now = self._placement.fleet, self._placement.bus.connected_s, time.monotonic()
        event = notice.of_owner(live.row, fleet, now, connected_s, asked)
        if isinstance(event, OwnerLost) and live.move is not None and live.move.committed(live.row):
            return hand_over.hand_back(live.row, live.move.move, fleet, now, event.why)
        return event

    async def _watch_viewers(self) -> None:
        if self._placement.bus.connected_s < EXPIRY_S:
            self._doubt_silence()
            return
        for live in self._still():
            event = self._of_viewers(live, time.time())
            if event is not None:
                await self._placement.happen(live, event)

    def _doubt_silence(self) -> None:
        """Gateways' words may not have come through: time without viewers counts from when they can again."""
        for live in self._placement.sessions.live.values():
            if live.row.paused_by != "unwatched":
                live.unwatched_since = None

    def _of_viewers(self, live: Live, now: float) -> Event | None:
        settings = self._placement.settings
        if live.viewers.count(time.monotonic()):
            live.unwatched_since = None
        elif live.unwatched_since is None:
            live.unwatched_since = now
        pause_s, close_s = settings.unwatched_pause_s, settings.unwatched_close_s
        return notice.of_viewers(live.row, live.unwatched_since, now, pause_s, close_s)

    async def _tell_phases(self) -> None:
        for live in self._still():
            if self._rephased(live):
                await self._placement.tell(live.known, live)

    async def _forget_logs(self) -> None:
        """Chunks and latents of ended sessions, once their viewers had time to read them."""
        placement = self._placement
        before = time.time() - placement.settings.ended_log_linger_s
        due = [entry for entry in placement.sessions.ended.values() if entry.ended_at <= before]
        for entry in due[:_LOGS_PER_ROUND]:
            await placement.chunk_log.forget(entry.tenant, entry.session)
            await placement.latent_log.forget(entry.tenant, entry.session)
            del placement.sessions.ended[entry.session]
