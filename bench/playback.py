"""Concurrent viewers on a running system: `python -m bench.playback --sessions 3 --seconds 300`.

Prints one JSON object. Start the system first (`make up`). Figures and machine: docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import Any

from bench.viewer import Playback, Viewer
from bench.vitals import VitalsWatch
from shared.bus import Bus

PROMPTS = [
    "a red circle bouncing over the meadow",
    "a blue square moving right at night",
    "a yellow star orbiting over the sea",
    "a green triangle moving up in the desert",
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="a gateway")
    parser.add_argument("--nats-url", default="", help="to watch the processes' memory, too")
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--steer-every", type=float, default=20.0, help="seconds between a viewer's prompt changes"
    )
    return parser.parse_args()


async def play(args: argparse.Namespace) -> dict[str, Any]:
    bus, watch = None, None
    if args.nats_url:
        bus = Bus(args.nats_url, "bench-playback", "bench")
        await bus.connect(5.0)
        watch = VitalsWatch(bus)
        await watch.start()
    rotated = [PROMPTS[i % 4 :] + PROMPTS[: i % 4] for i in range(args.sessions)]
    viewers = [Viewer(args.url, prompts, args.steer_every, seed) for seed, prompts in enumerate(rotated)]
    warm_at = time.monotonic() + min(30.0, args.seconds / 4)
    playbacks = await asyncio.gather(*(viewer.watch(args.seconds) for viewer in viewers))
    result = summary(playbacks)
    if bus is not None and watch is not None:
        result["memory_growth_mb"] = {
            name: round(mb, 1) for name, mb in watch.memory_slopes_mb(warm_at).items()
        }
        await bus.close()
    return result


def summary(playbacks: list[Playback]) -> dict[str, Any]:
    latencies = [s for p in playbacks for s in p.chunk_latencies_s]
    deliveries = [s for p in playbacks for s in p.deliveries_s]
    steers = [s for p in playbacks for s in p.prompt_to_pixel_s]
    duration_s = max(p.chunk_duration_s for p in playbacks)
    return {
        "sessions": len(playbacks),
        "chunk_duration_s": duration_s,
        "fps_each": [round(p.frames / (p.played_s + p.stalled_s), 2) for p in playbacks],
        "continuous_play_ratio": [round(p.played_s / (p.played_s + p.stalled_s), 4) for p in playbacks],
        "ttfc_s": [round(p.ttfc_s, 3) for p in playbacks],
        "chunk_latency_ms": quantiles_ms(latencies),
        "delivery_ms": quantiles_ms(deliveries),
        "prompt_to_pixel_chunks": round(max(steers) / duration_s, 2) if steers else None,
        "prompt_to_pixel_ms": quantiles_ms(steers),
        "problems": [problem for p in playbacks for problem in p.problems],
    }


def quantiles_ms(values_s: list[float]) -> dict[str, float]:
    if len(values_s) < 2:
        return {"n": len(values_s)}
    cuts = statistics.quantiles(values_s, n=100, method="inclusive")
    picked = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values_s)}
    return {"n": len(values_s)} | {name: round(value * 1000, 1) for name, value in picked.items()}


def main() -> int:
    result = asyncio.run(play(arguments()))
    json.dump(result, sys.stdout, indent=1)
    print()
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
