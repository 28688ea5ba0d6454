"""What stepping sessions together buys, at the large and at the small geometry."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

from bench.gpu.errors import twin
from bench.gpu.lab import LARGE, Setting, fill_window, seconds, settle
from bench.gpu.report import Report
from services.worker.models.wan.config import SMALL, Geometry
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State

_FPS = 16.0


def large(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    _curve(setting, report, LARGE, [1, 2, 4], chunks=3)


def small(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    _curve(setting, report, SMALL, [1, 2, 4, 8, 16, 32], chunks=8)


def _curve(setting: Setting, report: Report, geometry: Geometry, sizes: list[int], chunks: int) -> None:
    """Sizes take turns in every round, so that what changes on the machine changes for all."""
    model = setting.model(geometry, slots=max(sizes))
    first = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [first])
    states = [first, *(twin(model, first) for _ in range(max(sizes) - 1))]
    took: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        seconds(partial(_chunk, model, states[:size]), setting.device)
    for _ in range(chunks):
        for size in sizes:
            took[size].append(seconds(partial(_chunk, model, states[:size]), setting.device))
    settle(setting.device)
    rates = {size: size / statistics.median(times) for size, times in took.items()}
    per_stream = _FPS / model.spec.chunk_frames
    for size, rate in rates.items():
        said = f"{rate:.2f} chunks/s, {rate / rates[1]:.2f} × one row, {rate / per_stream:.1f} streams"
        report.row(f"{size} together, decode included", said, f"rows {size}", {"chunks_per_s": rate})
    report.figures["forms"] = [str(form) for form in model.forms]


def _chunk(model: Wan, states: list[State]) -> None:
    forwards = [model.begin_chunk(state, model.spec.rungs[0]) for state in states]
    for _ in range(max(forwards)):
        model.forward(states)
    later = [model.decode_later(state) for state in states]
    for arrive in later:
        arrive()
