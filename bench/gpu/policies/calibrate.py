"""What the simulator must know of these workers: their own curve, and what one session alone sees."""

from __future__ import annotations

import statistics
from typing import Any

import msgspec

from bench.live.calibrate import Calibration
from bench.live.replay import Asked, replay
from bench.sim.profiles import PROFILES, Gpu, Profile
from bench.traces.events import Event
from shared.contracts.fleet import LoadReport
from turboserve.errors import TurboserveError

_ALONE = (
    Event(0.0, "first", "arrive", active=True),
    Event(1.5, "first", "depart"),
    Event(2.0, "alone", "arrive", active=True),
    Event(10.0, "alone", "depart"),
)
"""The first one finds everything cold: of two times to the first chunk the shorter counts as the median."""


async def calibrate(url: str, report: LoadReport, boots_s: list[float]) -> Calibration:
    """Plays for ten seconds, one session at a time. `boots_s`: the first one's, which finds a machine where
    nothing is kept from earlier boots, and of those that followed. Raises TurboserveError.
    """
    told = await replay(_ALONE, Asked(url))
    if told["chunk_latency_ms"]["p50"] is None or told["ttfc_ms"]["p50"] is None:
        raise TurboserveError("no_chunks", "a session that played alone showed no chunk in time")
    first_s, *later_s = boots_s
    boot_s = statistics.median(later_s or [first_s])
    return Calibration(profile_of(report, told), round(boot_s, 1), round(first_s, 1))


def profile_of(report: LoadReport, alone: dict[str, Any]) -> Profile:
    """`alone`: what was seen of one session. What it doesn't show is as in the profile of such a device."""
    known = PROFILES["h100-1.3b" if report.device.kind == "cuda" else "sprites-cpu"]
    model, rung = report.model, report.curve[0].rung
    batch_s = tuple((p.batch, round(p.chunk_s, 6)) for p in report.curve if p.rung == rung)
    chunk_s = model.chunk_frames / model.fps
    usual_ms, first_ms = alone["chunk_latency_ms"]["p50"], alone["ttfc_ms"]["p50"]
    return msgspec.structs.replace(
        known,
        name="measured",
        gpus=(Gpu(report.device.name, batch_s, slots=report.slots, most_active=report.capacity),),
        chunk_s=chunk_s,
        target_s=chunk_s,
        deliver_s=round(max(0.0, usual_ms / 1000 - dict(batch_s)[1]), 4),
        start_s=round(max(0.0, (first_ms - usual_ms) / 1000), 4),
        measured="a worker's own curve, and what a session alone saw for eight seconds",
    )
