"""Frames per second of `sprites` on one CPU core, by phase.

    python -m bench.model_cpu --chunks 12

Medians over the chunks made once the window is full. End to end is forwards and decode, without H.264.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

from services.worker.models import load_model
from services.worker.models.protocol import Rung, SessionModel

WARM_CHUNKS = 5


def measure(model: SessionModel, rung: Rung, chunks: int, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds and frames/s of one session at this rung."""
    state = model.open(seed=1, prompt="a big red ball bouncing over the meadow")
    forward, decode, whole = [], [], []
    for index in range(WARM_CHUNKS + chunks):
        began = clock()
        steps = []
        for _ in range(model.begin_chunk(state, rung)):
            at = clock()
            model.forward([state])
            steps.append(clock() - at)
        at = clock()
        model.decode(state)
        if index >= WARM_CHUNKS:
            forward += steps
            decode.append(clock() - at)
            whole.append(clock() - began)
    chunk_s = statistics.median(whole)
    return {
        "forwards": rung.steps + 1,
        "forward_ms": round(1000 * statistics.median(forward), 1),
        "decode_ms": round(1000 * statistics.median(decode), 1),
        "chunk_ms": round(1000 * chunk_s, 1),
        "frames_per_s": round(model.spec.chunk_frames / chunk_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--cpu-time", action="store_true", help="count the core's time only")
    options = parser.parse_args()
    clock = time.thread_time if options.cpu_time else time.perf_counter
    model = load_model("sprites")
    torch.set_num_threads(1)
    rows = {rung.name: measure(model, rung, options.chunks, clock) for rung in model.spec.rungs}
    speed = [row["frames_per_s"] for row in rows.values()]
    result = {"machine": platform.machine(), "torch": torch.__version__, **rows}
    print(json.dumps({**result, f"{list(rows)[-1]}_over_{next(iter(rows))}": round(speed[-1] / speed[0], 2)}))


if __name__ == "__main__":
    main()
