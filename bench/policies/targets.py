"""The figures that were to be reached, each with what came out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bench.policies import cadence
from bench.policies.cases import DEFAULT_Z, Run
from bench.policies.measures import (
    Value,
    beyond,
    by_trace,
    falls,
    p99_ms,
    per_session,
    ratio_to_bound,
    unbeaten,
    worst_ms,
)

_NEVER_SPIKES = ("bursts", "wave", "steady", "heavy", "long")
_NEAR = 0.005
"""As much above another counts as not higher."""


class Target(NamedTuple):
    """`reached` None: nothing was asked for."""

    what: str
    to_reach: str
    came_out: str
    reached: bool | None


def table(runs: Sequence[Run]) -> str:
    lines = ["\n## What was to be reached\n", "| what | to reach | came out | |", "|---|---|---|---|"]
    for target in _targets(runs):
        word = "" if target.reached is None else "reached" if target.reached else "**missed**"
        lines.append(f"| {target.what} | {target.to_reach} | {target.came_out} | {word} |")
    return "\n".join(lines) + "\n"


def _targets(runs: Sequence[Run]) -> Iterator[Target]:
    yield from _same_fleet([run for run in runs if run.case.group == "same fleet"])
    yield from _elastic([run for run in runs if run.case.group == "elastic"])
    yield from _frontiers(runs)
    default = [run for run in runs if run.case.group == "boot" and run.case.settings == {"z": DEFAULT_Z}]
    yield from _default(default)
    yield from _moves(runs, default)


def _paired(runs: Iterable[Run], policy: str, value: Value) -> dict[tuple[str, int], float]:
    return {(run.shape, run.seed): value(run) for run in runs if run.case.policy == policy}


def _same_fleet(runs: Sequence[Run]) -> Iterator[Target]:
    ours = _paired(runs, "turboserve", worst_ms)
    least = _paired(runs, "turboserve", lambda run: run.told["bound"]["worst_latency_ms"])
    turns, resume = _paired(runs, "fixed-rr", worst_ms), _paired(runs, "ll-resume", worst_ms)
    traces = ours.keys() & turns.keys() & resume.keys()
    if not traces:
        return
    lower = 100 * statistics.fmean(1 - ours[trace] / turns[trace] for trace in traces)
    yield Target("same fleet, worst latency against fixed-rr", "≥ 40 % lower", f"{lower:.1f} %", lower >= 40)
    higher = max(ours[trace] / resume[trace] for trace in traces)
    yield Target("against ll-resume", "never higher", f"at most {higher:.3f} × its", higher <= 1.0 + _NEAR)
    above = statistics.fmean(ours[trace] / least[trace] for trace in traces)
    yield Target("against the least possible", "≤ 1.03 ×", f"{above:.3f} × on average", above <= 1.03 + _NEAR)


def _elastic(runs: Sequence[Run]) -> Iterator[Target]:
    fixed = _paired(runs, "ll-resume", lambda run: run.told["gpu_seconds"])
    saved = [
        100 * (fixed[run.shape, run.seed] - run.told["gpu_seconds"])
        / (fixed[run.shape, run.seed] - run.told["bound"]["gpu_seconds"])
        for run in runs
        if run.case.policy == "turboserve" and (run.shape, run.seed) in fixed
    ]  # fmt: skip
    if saved:
        mean = statistics.fmean(saved)
        yield Target("no boot time, of the bound's saving", "≥ 90 %", f"{mean:.1f} %", mean >= 90)


def _frontiers(runs: Sequence[Run]) -> Iterator[Target]:
    traces = by_trace(runs)
    compared: tuple[tuple[str, Value, float], ...] = (
        ("p99 chunk latency", p99_ms, 10.0),
        ("beyond capacity", beyond, 0.05),
        ("mean worst latency", worst_ms, 10.0),
    )
    for name, value, near in compared:
        behind = sum(bool(unbeaten(some, value, near)) for some in traces.values())
        yield Target(
            f"boot 30 s, {name}: on or inside the frontiers of paper and hpa",
            "on every trace", f"outside on {behind} of {len(traces)}", behind == 0,
        )  # fmt: skip
    told = cadence.reach(runs)
    yield Target(
        "… by those of ours that queue (running sessions keep their cadence)", "told beside it",
        f"outside on {told.traces} of {len(traces)}; for {told.barred} of {told.missed} settings, by "
        "the bound, nobody who queues gets there with those GPUs", None,
    )  # fmt: skip
    lower = [fall for some in traces.values() for fall in falls(some)]
    mean = statistics.fmean(lower) if lower else 0.0
    yield Target(
        "p99 chunk latency at no more GPU-seconds than paper", "≥ 30 % lower", f"{mean:.1f} %", mean >= 30
    )


def _default(runs: Sequence[Run]) -> Iterator[Target]:
    some = [run for run in runs if run.shape in _NEVER_SPIKES]
    if not some:
        return
    by_shape = {shape: [beyond(r) for r in some if r.shape == shape] for shape in _NEVER_SPIKES}
    most = max(statistics.fmean(values) for values in by_shape.values() if values)
    cost = statistics.fmean(map(ratio_to_bound, some))
    yield Target(
        f"boot 30 s, z = {DEFAULT_Z:g}, without spikes: beyond capacity, mean of the worst shape",
        "≤ 1 %", f"{most:.2f} %, at most {max(map(beyond, some)):.2f} % on one trace", most <= 1.0,
    )  # fmt: skip
    yield Target("… at the bound's GPU-seconds", "≤ 1.6 ×", f"{cost:.2f} × on average", cost <= 1.6)


def _moves(runs: Sequence[Run], default: Sequence[Run]) -> Iterator[Target]:
    """Against every setting of the paper's that has no better p99."""
    own = {(run.shape, run.seed): run for run in default}
    pairs = [
        (own[run.shape, run.seed], run)
        for run in runs
        if run.case.group == "boot" and run.case.policy == "paper" and (run.shape, run.seed) in own
    ]
    pairs = [(mine, other) for mine, other in pairs if p99_ms(mine) <= p99_ms(other)]
    others = sum(per_session(other) for _, other in pairs)
    if others:
        ratio = sum(per_session(mine) for mine, _ in pairs) / others
        yield Target(
            "moves per session against paper's where its p99 is no better", "≤ half", f"{ratio:.2f} ×",
            ratio <= 0.5,
        )  # fmt: skip
