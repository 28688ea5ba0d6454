"""The tables of docs/results/policies.md, from all runs."""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.bound import bound
from bench.policies.cases import BOOT_S, CAPACITY, DEFAULT_Z, Run
from bench.policies.plot import Point, frontiers
from bench.traces.generate import generate
from bench.traces.statistics import demand

Value = Callable[[Run], float]

_HEAD = """# Policies compared

Made by `make bench-policies`; every figure is from [runs.jsonl](runs.jsonl), one line a run with the whole
object of `turboserve simulate`. What the words mean, the traces and everything held equal:
[the yardstick](../decisions/0030-yardstick.md). Profile `h100-1.3b`, **a placeholder** until the engine's own
curve is measured. {traces}
"""


def write(runs: Sequence[Run], out: Path) -> None:
    parts = [
        _HEAD.format(traces=_traces(runs)),
        _same_fleet(runs),
        _elastic(runs),
        _boot(runs),
        _frontier(runs),
        _moves(runs),
        _ablations(runs),
    ]
    (out / "policies.md").write_text("\n".join(parts))
    boot = [run for run in runs if run.case.group == "boot"]
    (out / "beyond.svg").write_text(
        frontiers(_points(boot, lambda r: 100 * r.told["beyond_capacity"]), "beyond capacity, %")
    )
    (out / "latency.svg").write_text(frontiers(_points(boot, _p99_ms), "chunk latency p99, ms"))


def _traces(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    return f"Means over seeds {', '.join(map(str, seeds))}."


def ratio_to_bound(run: Run) -> float:
    return run.told["gpu_seconds"] / run.told["bound"]["gpu_seconds"]


def _p99_ms(run: Run) -> float:
    return run.told["chunk_latency_ms"]["p99"]


def _worst_ms(run: Run) -> float:
    return run.told["worst_latency_ms"]["mean"]


def _beyond(run: Run) -> float:
    return 100.0 * run.told["beyond_capacity"]


@functools.lru_cache
def _start(shape: str, seed: int) -> float:
    steps = demand(generate(shape, seed))
    return 100.0 * bound.beyond_at_start(steps, CAPACITY, BOOT_S, ready=1)


def _at_start(run: Run) -> float:
    return _start(run.shape, run.seed)


def _per_session(run: Run) -> float:
    return run.told["moves"] / run.told["sessions"]


def _points(runs: Iterable[Run], value: Value) -> list[Point]:
    grouped: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.shape, run.case.policy, run.case.name].append(run)
    return [
        Point(shape, policy, _mean(some, ratio_to_bound), _mean(some, value))
        for (shape, policy, _), some in grouped.items()
    ]


def _mean(runs: Iterable[Run], value: Value) -> float:
    values = [value(run) for run in runs]
    return statistics.fmean(values) if values else float("nan")


def _table(
    title: str, runs: Sequence[Run], value: Value, form: str, extra: dict[str, Value] | None = None
) -> str:
    """Cases down, shapes across; `extra` rows are reckoned from the last case's runs."""
    shapes = list(dict.fromkeys(run.shape for run in runs))
    names = list(dict.fromkeys(run.case.name for run in runs))
    lines = [f"| {title} | {' | '.join(shapes)} | all |", "|---" * (len(shapes) + 2) + "|"]
    rows = [(name, [r for r in runs if r.case.name == name], value) for name in names]
    rows += [(name, rows[-1][1], other) for name, other in (extra or {}).items()]
    for name, some, reckon in rows:
        cells = [_mean((r for r in some if r.shape == shape), reckon) for shape in shapes]
        shown = " | ".join(format(cell, form) for cell in [*cells, statistics.fmean(cells)])
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines) + "\n"


def _of(runs: Sequence[Run], group: str) -> list[Run]:
    return [run for run in runs if run.case.group == group]


def _same_fleet(runs: Sequence[Run]) -> str:
    some = _of(runs, "same fleet")
    least: dict[str, Value] = {"least possible": lambda run: run.told["bound"]["worst_latency_ms"]}
    return (
        "\n## No boot time, the same fixed fleet\n\nThe fleet that holds the trace's peak. "
        "Worst latency, mean, ms:\n\n"
        + _table("policy", some, _worst_ms, ".0f", least)
        + "\nMoves per session:\n\n"
        + _table("policy", some, _per_session, ".3f")
    )


def _elastic(runs: Sequence[Run]) -> str:
    some = _of(runs, "elastic")
    fixed = {(run.shape, run.seed): run.told["gpu_seconds"] for run in some if run.case.policy == "ll-resume"}

    def saved(run: Run) -> float:
        most = fixed[run.shape, run.seed]
        return 100 * (most - run.told["gpu_seconds"]) / (most - run.told["bound"]["gpu_seconds"])

    others = [run for run in some if run.case.policy != "ll-resume"]
    return (
        "\n## No boot time, a fleet that follows\n\n"
        "Saved, % of what the bound saves against the fixed fleet:\n\n"
        + _table("policy", others, saved, ".1f")
        + "\nBeyond capacity, %:\n\n"
        + _table("policy", others, _beyond, ".2f")
    )


def _boot(runs: Sequence[Run]) -> str:
    shown = [
        run for run in _of(runs, "boot") if run.case.policy != "paper" or run.case.settings["hold_s"] != 120.0
    ]
    return (
        "\n## Boot time 30 s\n\nBeyond capacity, %, queued and refused counted. The last row: what no policy "
        "without foresight can serve, since nothing that is ordered is ready within the first boot time:\n\n"
        + _table("policy", shown, _beyond, ".2f", {"unavoidable at the start": _at_start})
        + "\nGPU-seconds against the bound's:\n\n"
        + _table("policy", shown, ratio_to_bound, ".2f")
        + "\nChunk latency p99, ms:\n\n"
        + _table("policy", shown, _p99_ms, ".0f")
        + "\nWorst latency, mean, ms (the longest wait of a queued session counts):\n\n"
        + _table("policy", shown, _worst_ms, ".0f")
        + "\nContinuous-play ratio:\n\n"
        + _table("policy", shown, lambda run: run.told["continuous_play_ratio"], ".4f")
        + "\n![beyond capacity against cost](beyond.svg)\n\n![latency against cost](latency.svg)\n"
    )


def _by_trace(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    traces: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in _of(runs, "boot"):
        traces[run.shape, run.seed].append(run)
    return traces


_COMPARED: tuple[tuple[str, Value, float], ...] = (
    ("beyond capacity, %", _beyond, 0.05),
    ("chunk latency p99, ms", _p99_ms, 10.0),
    ("worst latency, mean, ms", _worst_ms, 10.0),
)
"""What is compared, and how much nearer than that counts as equal."""

_SHOWN = 3

_FRONTIERS = """
## Frontiers, boot time 30 s

For every setting of `paper` and `hpa` on every trace that uses at least as many GPU-seconds as our cheapest:
is there a setting of ours that uses no more (1 % counts as equal) and is as good?

| of | equal within | traces with a setting that ours doesn't reach | which |
|---|---|---|---|"""


def _frontier(runs: Sequence[Run]) -> str:
    """On every trace: does any setting of the others use no more and do better than ours does?"""
    lines = [_FRONTIERS]
    traces = _by_trace(runs)
    for name, value, near in _COMPARED:
        behind = {trace: _unbeaten(some, value, near) for trace, some in traces.items()}
        count = sum(bool(some) for some in behind.values())
        words = ", ".join(f"{s} {n}: {_few(some)}" for (s, n), some in behind.items() if some)
        lines.append(f"| {name} | {near:g} | {count} of {len(traces)} | {words or 'none'} |")
    falls = [fall for some in traces.values() for fall in _falls(some)]
    lines.append(
        "\nAt no more GPU-seconds than each setting of `paper`, p99 chunk latency is "
        f"{statistics.fmean(falls) if falls else 0.0:.1f} % lower on average "
        f"(of {len(falls)} settings and traces; those cheaper than anything of ours aren't counted).\n"
    )
    return "\n".join(lines)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more


def _unbeaten(runs: Sequence[Run], value: Value, near: float) -> list[str]:
    ours = [run for run in runs if run.case.policy == "turboserve"]
    least = min(run.told["gpu_seconds"] for run in ours)
    others = [r for r in runs if r.case.policy in ("paper", "hpa") and r.told["gpu_seconds"] >= least]
    return [
        other.case.name
        for other in others
        if not any(
            run.told["gpu_seconds"] <= 1.01 * other.told["gpu_seconds"] and value(run) <= value(other) + near
            for run in ours
        )
    ]


def _falls(runs: Sequence[Run]) -> Iterable[float]:
    """By how many % our best p99 is lower, at no more GPU-seconds than each setting of the paper's."""
    ours = [run for run in runs if run.case.policy == "turboserve"]
    for other in (run for run in runs if run.case.policy == "paper"):
        able = [_p99_ms(run) for run in ours if run.told["gpu_seconds"] <= other.told["gpu_seconds"]]
        if able:
            yield 100 * (1 - min(able) / _p99_ms(other))


def _moves(runs: Sequence[Run]) -> str:
    some = [r for r in _of(runs, "boot") if r.case.policy == "paper" or r.case.settings == {"z": DEFAULT_Z}]
    return "\n## Moves per session, boot time 30 s, κ charged\n\n" + _table(
        "policy", some, _per_session, ".3f"
    )


def _ablations(runs: Sequence[Run]) -> str:
    whole = [
        r for r in _of(runs, "boot") if r.case.policy == "turboserve" and r.case.settings == {"z": DEFAULT_Z}
    ]
    some = [*whole, *_of(runs, "ablation")]
    return (
        "\n## What each idea is worth, boot time 30 s\n\nBeyond capacity, %:\n\n"
        + _table("ours", some, _beyond, ".2f")
        + "\nGPU-seconds against the bound's:\n\n"
        + _table("ours", some, ratio_to_bound, ".3f")
        + "\nChunk latency p99, ms:\n\n"
        + _table("ours", some, _p99_ms, ".0f")
        + "\nWorst latency, mean, ms:\n\n"
        + _table("ours", some, _worst_ms, ".0f")
        + "\nMoves per session:\n\n"
        + _table("ours", some, _per_session, ".3f")
    )
