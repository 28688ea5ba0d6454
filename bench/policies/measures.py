"""What is read off a run, and how runs of one trace compare."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from bench.policies.cases import Run

Value = Callable[[Run], float]


def ratio_to_bound(run: Run) -> float:
    return run.told["gpu_seconds"] / run.told["bound"]["gpu_seconds"]


def p99_ms(run: Run) -> float:
    return run.told["chunk_latency_ms"]["p99"]


def worst_ms(run: Run) -> float:
    return run.told["worst_latency_ms"]["mean"]


def beyond(run: Run) -> float:
    return 100.0 * run.told["beyond_capacity"]


def per_session(run: Run) -> float:
    return run.told["moves"] / run.told["sessions"]


def keeping_ms(run: Run) -> float:
    """The least mean worst latency on the run's own workers, nobody served beyond capacity."""
    return run.told["bound"]["worst_latency_keeping_ms"]


def keeps_cadence(run: Run) -> bool:
    return run.case.policy == "turboserve" and run.case.settings.get("share_s") is None


def by_trace(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    traces: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in (run for run in runs if run.case.group == "boot"):
        traces[run.shape, run.seed].append(run)
    return traces


def unbeaten(runs: Sequence[Run], value: Value, near: float) -> list[str]:
    ours = [run for run in runs if run.case.policy == "turboserve"]
    least = min((run.told["gpu_seconds"] for run in ours), default=math.inf)
    others = [r for r in runs if r.case.policy in ("paper", "hpa") and r.told["gpu_seconds"] >= least]
    return [
        other.case.name
        for other in others
        if not any(
            run.told["gpu_seconds"] <= 1.01 * other.told["gpu_seconds"] and value(run) <= value(other) + near
            for run in ours
        )
    ]


def falls(runs: Sequence[Run]) -> Iterable[float]:
    """By how many % our best p99 is lower, at no more GPU-seconds than each setting of the paper's."""
    ours = [run for run in runs if run.case.policy == "turboserve"]
    for other in (run for run in runs if run.case.policy == "paper"):
        able = [p99_ms(run) for run in ours if run.told["gpu_seconds"] <= other.told["gpu_seconds"]]
        if able:
            yield 100 * (1 - min(able) / p99_ms(other))
