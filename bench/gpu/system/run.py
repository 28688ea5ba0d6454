"""What the parts of a run share: the system that was started, what was asked, and where results go."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.gpu.report import Report, quantile
from bench.gpu.system.fleet import Fleet
from bench.gpu.system.services import Services
from services.worker.device import Device
from turboserve.client import Client
from turboserve.messages import Phase

_APPEND = re.compile(r'^turboserve_worker_stage_seconds_(sum|count)\{stage="append"\} (\S+)', re.MULTILINE)


@dataclass
class Run:
    """`gpus`: of the workers, by the driver. `idle_memory`: bytes in use there before any had started."""

    asked: argparse.Namespace
    services: Services
    fleet: Fleet
    client: Client
    report: Report
    ends_at: float
    gpus: Mapping[str, Device] = field(default_factory=dict)
    idle_memory: Mapping[str, int] = field(default_factory=dict)
    problems: int = 0

    def left_s(self) -> float:
        return self.ends_at - time.monotonic()

    def gpu_memory(self) -> dict[str, int]:
        """Bytes in use, by worker, of those on GPUs."""
        return memory_in_use(self.gpus)

    def problem(self, text: str) -> None:
        self.problems += 1
        self.report.figures.setdefault("problems", []).append(text)
        print(f"  problem: {text}", file=sys.stderr, flush=True)

    def rungs(self) -> list[str]:
        """Those asked for, or all that the model has."""
        model = next(iter(self.fleet.reports.values())).model
        return self.asked.rungs or list(model.rungs)


def memory_in_use(gpus: Mapping[str, Device]) -> dict[str, int]:
    return {worker: gpu.report().memory_used_bytes for worker, gpu in gpus.items()}


def spread(values_s: Sequence[float]) -> dict[str, float]:
    """In milliseconds, by nearest rank."""
    if not values_s:
        return {"n": 0}
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    told = {name: round(1000 * quantile(values_s, share), 2) for name, share in shares.items()}
    return {"n": len(values_s), **told, "max": round(1000 * max(values_s), 2)}


def stage_spreads(chunks: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By stage, of chunks' seconds in each."""
    stages: dict[str, list[float]] = {}
    for chunk in chunks:
        for stage, seconds in chunk.items():
            stages.setdefault(stage, []).append(seconds)
    return {stage: spread(seconds) for stage, seconds in stages.items()}


def medians(stages: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{stage} {told.get('p50', 0):.1f}" for stage, told in stages.items())


def words(told: Mapping[str, float]) -> str:
    if not told["n"]:
        return "none seen"
    quantiles = ", ".join(f"{name} {told[name]:.1f}" for name in ("p50", "p95", "p99", "max"))
    return f"{quantiles} ms of {told['n']}"


def tell_phases(run: Run, call: str, told: Sequence[Sequence[Phase]]) -> None:
    phases: dict[str, list[float]] = {}
    for phase in (phase for each in told for phase in each):
        phases.setdefault(phase.name, []).append(phase.duration_s)
    for name, seconds in phases.items():
        figure = spread(seconds)
        run.report.row(f"  {call}, {name}", words(figure), f"{call} {name}", figure)


def whole_s(phases: Sequence[Phase]) -> float:
    """Phases with a space in their names are details within the others."""
    return sum(phase.duration_s for phase in phases if " " not in phase.name)


def appended(before: Mapping[str, str], after: Mapping[str, str]) -> float | None:
    """Mean seconds that a chunk took into the log between two readings of all metrics."""
    first, last = _append_totals(before), _append_totals(after)
    count = last["count"] - first["count"]
    return (last["sum"] - first["sum"]) / count if count else None


def counted(before: Mapping[str, str], after: Mapping[str, str], counter: str) -> float:
    """By how much a counter without labels grew between two readings, all services together."""
    line = re.compile(rf"^{counter} (\S+)", re.MULTILINE)
    first, last = (
        sum(float(value) for text in metrics.values() for value in line.findall(text))
        for metrics in (before, after)
    )
    return last - first


def _append_totals(metrics: Mapping[str, str]) -> dict[str, float]:
    totals = {"sum": 0.0, "count": 0.0}
    for text in metrics.values():
        for name, value in _APPEND.findall(text):
            totals[name] += float(value)
    return totals
