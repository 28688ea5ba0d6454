"""The tables of docs/results/policies.md, from all runs."""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.bound import bound
from bench.policies import cadence, targets
from bench.policies.cases import BOOT_S, CAPACITY, DEFAULT_Z, SHARE_S, Run
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
from bench.policies.plot import Point, frontiers
from bench.policies.tables import mean, table
from bench.traces.generate import generate
from bench.traces.statistics import demand

_HEAD = """# Policies compared

Made by `make bench-policies`; every figure is from [runs.jsonl](runs.jsonl), one line a run with the whole
object of `turboserve simulate`. What the words mean, the traces and everything held equal:
[the yardstick](../decisions/0030-yardstick.md). Profile `h100-1.3b`: what was measured on H100s, 1.3B with
random weights, exact rung. {traces}
"""


def write(runs: Sequence[Run], out: Path, missing: int = 0) -> None:
    """`missing`: runs that were not made yet; what they would tell is left open."""
    parts = [
        _HEAD.format(traces=_traces(runs, missing)),
        _same_fleet(runs),
        _elastic(runs),
        _boot(runs),
        _frontier(runs),
        cadence.section(runs),
        _moves(runs),
        _ablations(runs),
        _stepping(runs),
        targets.table(runs),
    ]
    (out / "policies.md").write_text("\n".join(parts))
    boot = [run for run in runs if run.case.group == "boot"]
    (out / "beyond.svg").write_text(
        frontiers(_points(boot, lambda r: 100 * r.told["beyond_capacity"]), "beyond capacity, %")
    )
    (out / "latency.svg").write_text(frontiers(_points(boot, p99_ms), "chunk latency p99, ms"))
    (out / "worst.svg").write_text(frontiers(_points(boot, worst_ms), "mean worst latency, ms"))


def _traces(runs: Sequence[Run], missing: int) -> str:
    seeds = sorted({run.seed for run in runs})
    told = f"Means over seeds {', '.join(map(str, seeds))}."
    if missing:
        told += (
            f"\n\n**Not complete**: {missing} of {len(runs) + missing} runs are still to be made "
            "(`make bench-policies` goes on with them); “–” is what waits for them, and a mean is of what is "
            "there."
        )
    return told


@functools.lru_cache
def _start(shape: str, seed: int) -> float:
    steps = demand(generate(shape, seed))
    return 100.0 * bound.beyond_at_start(steps, CAPACITY, BOOT_S, ready=1)


def _at_start(run: Run) -> float:
    return _start(run.shape, run.seed)


def _points(runs: Iterable[Run], value: Value) -> list[Point]:
    grouped: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.shape, run.case.policy, run.case.name].append(run)
    return [
        Point(shape, policy, mean(some, ratio_to_bound), mean(some, value))
        for (shape, policy, _), some in grouped.items()
    ]


def _of(runs: Sequence[Run], group: str) -> list[Run]:
    return [run for run in runs if run.case.group == group]


def _same_fleet(runs: Sequence[Run]) -> str:
    some = _of(runs, "same fleet")
    least: dict[str, Value] = {"least possible": lambda run: run.told["bound"]["worst_latency_ms"]}
    return (
        "\n## No boot time, the same fixed fleet\n\nThe fleet that holds the trace's peak. "
        "Worst latency, mean, ms:\n\n"
        + table("policy", some, worst_ms, ".0f", least)
        + "\nMoves per session:\n\n"
        + table("policy", some, per_session, ".3f")
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
        + table("policy", others, saved, ".1f")
        + "\nBeyond capacity, %:\n\n"
        + table("policy", others, beyond, ".2f")
    )


def _boot(runs: Sequence[Run]) -> str:
    shown = [
        run for run in _of(runs, "boot") if run.case.policy != "paper" or run.case.settings["hold_s"] != 120.0
    ]
    return (
        "\n## Boot time 30 s\n\nBeyond capacity, %, queued and refused counted. The last row: what no policy "
        "without foresight can serve, since nothing that is ordered is ready within the first boot time. "
        f"“Sharing”: `share_s` {SHARE_S:g} and `settle_s` 0, for the worst latency's sake; “sized as "
        "theirs”: besides no forecast, no `hold_spells`, no patience, moves while workers boot, too; all "
        "else of ours queues.\n\n"
        + table("policy", shown, beyond, ".2f", {"unavoidable at the start": _at_start})
        + "\nGPU-seconds against the bound's:\n\n"
        + table("policy", shown, ratio_to_bound, ".2f")
        + "\nChunk latency p99, ms:\n\n"
        + table("policy", shown, p99_ms, ".0f")
        + "\nWorst latency, mean, ms (the longest wait of a queued session counts):\n\n"
        + table("policy", shown, worst_ms, ".0f")
        + "\nContinuous-play ratio:\n\n"
        + table("policy", shown, lambda run: run.told["continuous_play_ratio"], ".4f")
        + "\n![beyond capacity against cost](beyond.svg)\n\n![latency against cost](latency.svg)\n\n"
        "![worst latency against cost](worst.svg)\n"
    )


_COMPARED: tuple[tuple[str, Value, float], ...] = (
    ("beyond capacity, %", beyond, 0.05),
    ("chunk latency p99, ms", p99_ms, 10.0),
    ("worst latency, mean, ms", worst_ms, 10.0),
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
    traces = by_trace(runs)
    for name, value, near in _COMPARED:
        behind = {trace: unbeaten(some, value, near) for trace, some in traces.items()}
        count = sum(bool(some) for some in behind.values())
        words = ", ".join(f"{s} {n}: {_few(some)}" for (s, n), some in behind.items() if some)
        lines.append(f"| {name} | {near:g} | {count} of {len(traces)} | {words or 'none'} |")
    lower = [fall for some in traces.values() for fall in falls(some)]
    lines.append(
        "\nAt no more GPU-seconds than each setting of `paper`, p99 chunk latency is "
        f"{statistics.fmean(lower) if lower else 0.0:.1f} % lower on average "
        f"(of {len(lower)} settings and traces; those cheaper than anything of ours aren't counted).\n"
    )
    return "\n".join(lines)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more


def _moves(runs: Sequence[Run]) -> str:
    some = [r for r in _of(runs, "boot") if r.case.policy == "paper" or r.case.settings == {"z": DEFAULT_Z}]
    return "\n## Moves per session, boot time 30 s, κ charged\n\n" + table("policy", some, per_session, ".3f")


def _default(runs: Sequence[Run]) -> list[Run]:
    return [run for run in _of(runs, "boot") if run.case.settings == {"z": DEFAULT_Z}]


def _stepping(runs: Sequence[Run]) -> str:
    some = [*_default(runs), *_of(runs, "stepping")]
    return (
        "\n## Stepping down a rung, boot time 30 s\n\nA session one step down takes that share of a worker. "
        "Active time spent so, %:\n\n"
        + table("floor", some, lambda run: 100 * run.told.get("stepped_down", 0.0), ".2f")
        + "\nBeyond capacity, %:\n\n"
        + table("floor", some, beyond, ".2f")
        + "\nWorst latency, mean, ms:\n\n"
        + table("floor", some, worst_ms, ".0f")
    )


def _ablations(runs: Sequence[Run]) -> str:
    some = [*_default(runs), *_of(runs, "ablation")]
    return (
        "\n## What each idea is worth, boot time 30 s\n\nBeyond capacity, %:\n\n"
        + table("ours", some, beyond, ".2f")
        + "\nGPU-seconds against the bound's:\n\n"
        + table("ours", some, ratio_to_bound, ".3f")
        + "\nChunk latency p99, ms:\n\n"
        + table("ours", some, p99_ms, ".0f")
        + "\nWorst latency, mean, ms:\n\n"
        + table("ours", some, worst_ms, ".0f")
        + "\nMoves per session:\n\n"
        + table("ours", some, per_session, ".3f")
    )
