"""Simulator and live system side by side, as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.live.prediction import JUDGED, Prediction, figure
from bench.sim.profiles import Gpu

WITHIN = 0.15

_SHOWN = (
    *("chunk_latency_ms.mean", "chunk_latency_ms.p99", "worst_latency_ms.mean", "ttfc_ms.p50", "ttfc_ms.p95"),
    *("continuous_play_ratio", "queued_s", "beyond_capacity", "refused", "moves", "suspends"),
    *("scale_events", "chunks"),
)


def middle(runs: Sequence[dict[str, Any]], name: str) -> float | None:
    known = [value for run in runs if (value := figure(run, name)) is not None]
    return statistics.median(known) if known else None


def off(prediction: Prediction, runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How far the live middle lies from the prediction, as a share of it, for every figure that is judged."""
    told = {name: (figure(prediction.told, name), middle(runs, name)) for name in JUDGED}
    return {name: live / said - 1.0 for name, (said, live) in told.items() if said and live is not None}


def page(
    prediction: Prediction, runs: Sequence[dict[str, Any]], loads: Sequence[float], trace: str, command: str
) -> str:
    """`loads`: of the machine, before each run. `trace`: its file in bench/traces."""
    parts = [
        _what(prediction, trace, command),
        _how(prediction, loads),
        _table(prediction, runs),
        _rest(runs),
    ]
    return "# Simulator and live system on one small trace\n\n" + "\n\n".join(parts) + "\n"


def _what(prediction: Prediction, trace: str, command: str) -> str:
    told, most = prediction.told, prediction.calibration.profile.gpus[0].most_active
    return (
        f"`{command}`. Trace: `bench/traces/{trace}`, {told['sessions']} sessions in "
        f"{told['duration_s']:.0f} s. Policy `{prediction.policy}`, one to {prediction.max_workers} workers "
        f"with at most {most} active sessions each, model `sprites`. Services, "
        f"workers and viewers share one machine without a GPU: {prediction.machine}."
    )


def _how(prediction: Prediction, loads: Sequence[float]) -> str:
    calibration = prediction.calibration
    profile = calibration.profile
    batches = ", ".join(f"{seconds * 1000:.0f} ms for {rows}" for rows, seconds in profile.gpus[0].batch_s)
    return (
        f"The prediction ([live-prediction.json](live-prediction.json)) was made before the live runs, "
        f"{prediction.made_at}, by the simulator, from what was measured on a system of its own where a few "
        f"sessions played on two workers: chunks made together take {batches}, {profile.beside_boot:g} times "
        f"as long while a worker boots, {profile.beside_busy:g} times while the other one makes chunks"
        f"{_chance(profile.spread)}, and a new session's first {profile.start_s * 1000:.0f} ms more"
        f"{_later(profile.gpus[0])}; a boot {calibration.boot_s} s (the first "
        f"worker's, on an idle machine, {calibration.learned_boot_s} s). The machine's load before each live "
        f"run: {', '.join(f'{load:.1f}' for load in loads)}.{_drawn(prediction)}"
    )


def _chance(spread: Sequence[float]) -> str:
    return f", and {spread[0]:g} to {spread[-1]:g} times that by chance" if spread else ""


def _later(gpu: Gpu) -> str:
    told = ", ".join(f"{seconds * 1000:.0f} ms for {rows}" for rows, seconds in gpu.told_later)
    return f"; the worker that boots later tells {told} of itself" if told else ""


def _drawn(prediction: Prediction) -> str:
    if not prediction.between:
        return ""
    between = ", ".join(f"`{name}` {low:g} to {high:g}" for name, (low, high) in prediction.between.items())
    return f" Of many runs with times drawn from these the one of middle p95 counts; nine in ten: {between}."


def _rest(runs: Sequence[dict[str, Any]]) -> str:
    boots = ", ".join(str(boot_s) for run in runs for boot_s in run["boot_s"]) or "none"
    problems = [problem for run in runs for problem in run["problems"]]
    lost = f"Viewers that lost their session: {sum(run['failed'] for run in runs)}."
    kept = "Every chunk that reached a viewer: [live-chunks.jsonl](live-chunks.jsonl)."
    return " ".join([lost, f"Boots seen live: {boots} s.", kept, *problems])


def _table(prediction: Prediction, runs: Sequence[dict[str, Any]]) -> str:
    heads = ["what", "simulator", *(f"live {n}" for n in range(1, len(runs) + 1)), "live against it"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    far = off(prediction, runs)
    for name in (*JUDGED, *_SHOWN):
        values = [figure(prediction.told, name), *(figure(run, name) for run in runs)]
        last = _judged(far[name]) if name in far else ""
        lines.append("| " + " | ".join([f"`{name}`", *map(_shown, values), last]) + " |")
    return "\n".join(lines)


def _judged(share: float) -> str:
    return f"{share:+.0%} ({'≤' if abs(share) <= WITHIN else '>'} {WITHIN:.0%})"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
