"""What stepping sessions together buys: row steps per second by batch size.

    python -m bench.coalescing --model sprites --rows 8

Sessions with a full window; sizes take turns within every round, so that what disturbs the machine disturbs
all alike. Medians; `ratio` is the best rate of more than one row over the rate of one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

from services.worker import runner
from services.worker.models.protocol import Rung, State
from services.worker.runner import Runner


def measure(loaded: Runner, rung: Rung, sizes: list[int], chunks: int) -> dict[int, float]:
    """Size → median seconds of a step."""
    state = loaded.open(seed=1, prompt="", first_chunk=0)
    for _ in range(1 + math.ceil(rung.window_latent_frames / loaded.spec.latent_frames_per_chunk)):
        _chunk(loaded, rung, [state])
    states = [state, *(loaded.twin(state) for _ in range(max(sizes) - 1))]
    steps: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(chunks):
        for size in sizes:
            steps[size] += _chunk(loaded, rung, states[:size])
    return {size: statistics.median(times) for size, times in steps.items()}


def _chunk(loaded: Runner, rung: Rung, states: list[State]) -> list[float]:
    """Seconds of each step of one chunk."""
    forwards = [loaded.begin_chunk(state, rung.name) for state in states]
    times = [loaded.forward(states) for _ in range(min(forwards))]
    for state in states:
        loaded.decode(state)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sprites")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights-path", default="")
    parser.add_argument("--rung", default="", help="the model's first if not given")
    parser.add_argument("--rows", type=int, default=8, help="the largest batch, a power of two")
    parser.add_argument("--chunks", type=int, default=5)
    options = parser.parse_args()
    loaded = runner.load("services.worker.models", options.model, options.device, options.weights_path)
    rung = next(r for r in loaded.spec.rungs if options.rung in {"", r.name})
    sizes = [2**n for n in range(max(1, options.rows).bit_length())]
    began = time.perf_counter()
    step_s = measure(loaded, rung, sizes, options.chunks)
    rates = {size: size / seconds for size, seconds in step_s.items()}
    result = {
        "model": loaded.spec.name,
        "device": loaded.device,
        "rung": rung.name,
        "step_ms": {size: round(1000 * seconds, 2) for size, seconds in step_s.items()},
        "row_steps_per_s": {size: round(rate, 2) for size, rate in rates.items()},
        "ratio": round(max((r for size, r in rates.items() if size > 1), default=rates[1]) / rates[1], 3),
        "took_s": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
