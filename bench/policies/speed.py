"""How quick simulator and decisions are: `python -m bench.policies.speed` prints one JSON object a line."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from bench.sim.simulate import Options, simulate
from bench.traces.generate import generate
from bench.traces.statistics import summary


class Size(NamedTuple):
    """`scale`: of the shape "bursts", such that it has about so many sessions at once."""

    gpus: int
    scale: float
    duration_s: float


SIZES = (Size(64, 1.4, 1000.0), Size(1024, 36.0, 240.0))
POLICIES = ("ll-resume", "paper", "turboserve")


def main() -> None:
    for size in SIZES:
        events = generate("bursts", 1, size.scale, size.duration_s)
        asked = summary(events)
        for policy in POLICIES:
            begun_s = time.process_time()
            told = simulate(events, Options(policy=policy, max_gpus=size.gpus))
            spent_s = time.process_time() - begun_s
            figures = {
                "policy": policy,
                "gpus": size.gpus,
                "sessions": asked["peak_retained"],
                "active": asked["peak_active"],
                "chunks": told["chunks"],
                "times_real_time": round(told["duration_s"] / spent_s, 1),
                "decision_ms": told["decision_ms"],
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
