"""How many sessions one GPU keeps up with at 16 frames/s: the model stepped earliest deadline first, in real
time, every viewer playing from its first chunk on without prebuffer.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu.chunk import Encode, encoder_of, shown_early
from bench.gpu.errors import twin
from bench.gpu.lab import Setting, fill_window
from bench.gpu.report import Report
from services.worker.models.protocol import Rung
from services.worker.models.wan.frames import Later
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State

_AHEAD = 2
"""Chunks that may be made before they are due, as credit allows."""
_REHEARSAL_S = 2.0
_ENOUGH = 0.99


@dataclass
class _Viewer:
    state: State
    arrived: list[float] = field(default_factory=list)
    begun: int = 0

    def dry_at(self, chunk_s: float) -> float:
        """When all chunks begun will have been played, those under way counted as in time."""
        clock = 0.0
        for arrived in self.arrived:
            clock = max(clock, arrived) + chunk_s
        return clock + (self.begun - len(self.arrived)) * chunk_s

    def ratio(self, chunk_s: float) -> float:
        """Played ÷ (played + stalled)."""
        clock, stalled = self.arrived[0], 0.0
        for arrived in self.arrived:
            stalled += max(0.0, arrived - clock)
            clock = max(clock, arrived) + chunk_s
        played = len(self.arrived) * chunk_s
        return played / (played + stalled)


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    spell_s = _REHEARSAL_S if setting.tiny else setting.spell_s
    model = setting.model(slots=6)
    first = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [first])
    states = [first, *(twin(model, first) for _ in range(5))]
    encode = encoder_of(report, model)
    for rung, sizes in zip(model.spec.rungs, ((2, 3), (4, 5)), strict=True):
        for size in sizes:
            viewers = [_Viewer(state) for state in states[:size]]
            with ThreadPoolExecutor(size) as encoders:
                made = _play(model, viewers, rung, encoders, encode, spell_s)
            worst = min(viewer.ratio(model.spec.chunk_frames / model.spec.fps) for viewer in viewers)
            said = f"continuous-play ratio, worst: {worst:.4f}; {made / spell_s:.2f} chunks/s"
            report.row(f"{rung.name}, {size} sessions, {spell_s:.0f} s", said, f"{rung.name} {size}", worst)
            if worst < _ENOUGH:
                break


def _play(
    model: Wan,
    viewers: list[_Viewer],
    rung: Rung,
    encoders: ThreadPoolExecutor,
    encode: Encode | None,
    spell_s: float,
) -> int:
    """Whose next chunk is needed first goes first. Returns chunks made."""
    chunk_s = model.spec.chunk_frames / model.spec.fps
    end, made, jobs = time.perf_counter() + spell_s, 0, []
    while (now := time.perf_counter()) < end:
        wanting = [v for v in viewers if v.begun - len(v.arrived) < _AHEAD]
        able = [v for v in wanting if v.dry_at(chunk_s) - now < _AHEAD * chunk_s]
        if not able:
            time.sleep(0.002)
            continue
        viewer = min(able, key=lambda v: v.dry_at(chunk_s))
        later = shown_early(model, viewer.state, rung)
        viewer.begun += 1

        jobs.append(encoders.submit(_deliver, viewer, later, encode))
        if len(jobs) >= 2:
            jobs[-2].result(timeout=60)  # at most one chunk is told the device ahead
        made += 1
    for job in jobs:
        job.result(timeout=60)
    return made


def _deliver(viewer: _Viewer, later: Later, encode: Encode | None) -> None:
    frames = later()
    if encode:
        encode(frames)
    viewer.arrived.append(time.perf_counter())
