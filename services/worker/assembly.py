"""The parts of a worker that has its model, and who tells whom what."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from services.worker import loading, measure, report
from services.worker.carry import Picture
from services.worker.cold import Cold
from services.worker.control import Control
from services.worker.copies import Copy
from services.worker.desk import Desk
from services.worker.dropped import DroppedEpochs
from services.worker.engine import Engine
from services.worker.holdings import Holdings
from services.worker.loading import Loaded
from services.worker.making import Made
from services.worker.models.protocol import ModelSpec
from services.worker.mover.ahead import LinksAhead
from services.worker.mover.links import Links, transports_of
from services.worker.mover.mover import Mover
from services.worker.mover.port import Port
from services.worker.report import Reporter
from services.worker.roster import Roster
from services.worker.settings import WorkerSettings
from services.worker.shelf import Shelf
from services.worker.states import States
from services.worker.texts import Texts
from services.worker.tiers import Tiers
from services.worker.transfer.choose import wished
from shared.chunk_log import ChunkLog
from shared.contracts.moves import compatibility_of
from shared.contracts.session import CREDIT_WINDOW
from shared.latent_log import LatentLog, LatentSettings
from shared.process import Process


class Assembly(NamedTuple):
    engine: Engine
    holdings: Holdings
    mover: Mover
    control: Control
    links_ahead: LinksAhead


def assemble(process: Process[WorkerSettings], reporter: Reporter, log: ChunkLog, loaded: Loaded) -> Assembly:
    """Nothing runs yet, but what puts latents into the cold tier. On the event loop."""
    settings, loop, model = process.settings, asyncio.get_running_loop(), loaded.runner

    def on_change() -> None:
        loop.call_soon_threadsafe(reporter.changed.set)

    def deliver(made: Made) -> None:
        loop.call_soon_threadsafe(holdings.deliver, made)

    def lost(copy: Copy) -> None:
        roster.lost(copy)
        loop.call_soon_threadsafe(holdings.seek, copy)

    def on_leave(copy: Copy) -> None:
        texts.forget(copy)
        mover.on_leave(copy)

    roster = Roster(measure.chunk_duration_s(model.spec), on_change, encodes=bool(model.spec.text_encoder))
    texts = Texts(process.bus, settings.cell, roster, model)
    cold = _cold(process, model.spec)
    desk = Desk(process.bus, log, roster, model.spec, settings.cell, process.instance, cold)
    holdings = Holdings(desk, loaded.room, on_empty=process.stopping.set)
    states = States(Shelf(Tiers(model, loaded.pool, loaded.room.hot)), settings.write_behind)
    if cold is not None:
        states.shelf.on_lost = lost
        process.spawn("cold tier", cold.run())
    encode = loading.encode_settings(settings)
    engine = Engine(model, states, roster, encode, deliver, loaded.measured.curves(), cold is not None)
    dropped = DroppedEpochs()
    mover = Mover(_port(process, holdings, engine, loaded), dropped)
    holdings.on_leave = on_leave
    engine.crossings.on_boundary, engine.crossings.on_step = mover.on_boundary, mover.on_step
    port, control = mover.port, Control(holdings, mover, dropped, texts, engine, reporter.say)
    at = (process.bus, settings.cell, process.instance)
    ahead = LinksAhead(*at, port.links, port.compatibility, settings.links_ahead)
    return Assembly(engine, holdings, mover, control, ahead)


def _port(process: Process[WorkerSettings], holdings: Holdings, engine: Engine, loaded: Loaded) -> Port:
    settings, model = process.settings, loaded.runner
    transports = transports_of(model.device, settings.transfer_host, wished(settings.transports))
    return Port(
        holdings,
        Links(process.bus, settings.cell, process.instance, transports),
        engine,
        engine.states,
        compatibility_of(report.model_report(model.spec)),
        _picture(loaded, rebuilt=holdings.desk.cold is not None),
        settings.move_patience_s or CREDIT_WINDOW * measure.chunk_duration_s(model.spec),
        settings.move_checksums,
    )


def _picture(loaded: Loaded, *, rebuilt: bool) -> Picture:
    """A chunk's share of the window is what it changes. To rebuild is one forward for each chunk of it."""
    spec, pace = loaded.runner.spec, loaded.measured.default
    chunks = max(1, spec.recent_chunks + spec.sink_chunks)
    rebuild_s = chunks / pace.curve.rate(1) if rebuilt else None
    chunk_s = measure.chunk_duration_s(spec)
    return Picture(spec.state_bytes, spec.state_bytes // chunks, chunk_s, rebuild_s)


def _cold(process: Process[WorkerSettings], spec: ModelSpec) -> Cold | None:
    settings = process.settings
    if settings.cold_tier == "off" or not spec.recent_chunks:
        return None
    limits = LatentSettings(settings.cold_tier_max_age_s, int(settings.cold_tier_max_gib * 2**30))
    return Cold(LatentLog(process.bus, settings.cell, limits), spec)
