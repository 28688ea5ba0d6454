"""What queueing, so that running sessions keep their cadence, costs in worst latency: against the bound, not
by argument.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from bench.bound.keeping import least_worst_keeping_s
from bench.policies.cases import BOOT_S, Run
from bench.policies.measures import by_trace, keeping_ms, keeps_cadence, unbeaten, worst_ms
from bench.policies.tables import table
from bench.sim.parts import KindOfWorker
from bench.sim.profiles import PROFILES
from bench.traces.generate import generate

_NEAR_MS = 10.0
_ENOUGH = 1_000_000
_SHOWN_HOLD_S = 30.0

_WORDS = """
## What keeping the cadence costs in worst latency, boot time 30 s

Ours queues unless `share_s` is set: nobody is served beyond capacity, and the longest wait counts as
worst latency. `paper` and `hpa` serve beyond capacity, where everybody gets slower. Below, in ms: the
least mean worst latency that **any** policy can have which serves nobody beyond capacity, with the
workers that this one had at each moment (`bench/bound`, with its proof). Last row: the same with as many
workers as one likes after the first boot time, so under every such policy without foresight.

"""


class Reach(NamedTuple):
    """Settings of the others, on all traces: `missed` by ours that keep the cadence; of these `barred`: no
    policy that keeps it could have reached the figure with the workers that the other had.
    """

    traces: int
    missed: int
    barred: int


def reach(runs: Sequence[Run]) -> Reach:
    behind = missed = barred = 0
    for some in by_trace(runs).values():
        others = [run for run in some if run.case.policy != "turboserve"]
        names = unbeaten([*others, *filter(keeps_cadence, some)], worst_ms, _NEAR_MS)
        behind += bool(names)
        missed += len(names)
        barred += sum(keeping_ms(r) > worst_ms(r) + _NEAR_MS for r in others if r.case.name in names)
    return Reach(behind, missed, barred)


@functools.lru_cache
def _start_ms(shape: str, seed: int) -> float:
    profile = PROFILES["h100-1.3b"]
    kind = KindOfWorker(profile.gpus[0], profile.target_s)
    serving = [(0.0, 1), (BOOT_S, _ENOUGH)]
    return 1000.0 * least_worst_keeping_s(generate(shape, seed), serving, kind)


def _is_shown(run: Run) -> bool:
    return run.case.settings.get("hold_s") == _SHOWN_HOLD_S


def section(runs: Sequence[Run]) -> str:
    some = [
        run
        for run in runs
        if run.case.group == "boot"
        and (
            keeps_cadence(run) or run.case.policy == "hpa" or run.case.settings.get("hold_s") == _SHOWN_HOLD_S
        )
    ]
    if not some:
        return ""
    at_start = {"any, after the first boot": lambda run: _start_ms(run.shape, run.seed)}
    told = reach(runs)
    return (
        _WORDS
        + table("least on the workers of", some, keeping_ms, ".0f", at_start)
        + f"\nOf ours only those that queue: {told.missed} settings of `paper` and `hpa`, on {told.traces} "
        "traces, have a mean worst latency that none of these reaches at no more GPU-seconds. For "
        f"{told.barred} of the {told.missed} the bound on the workers that the other had is above what it "
        "reached: only who slows running sessions down gets there with them.\n"
    )
