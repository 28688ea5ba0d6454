"""Encode time and size of one chunk, as the worker encodes it: `python -m bench.encode_latency`.

Flat frames, a moving square, and noise, which is the worst there is and what the rate cap is for.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from services.worker.encode import EncodeSettings, Frames, encode

FRAMES, FPS = 12, 12.0


def pictures(kind: str, height: int, width: int) -> Frames:
    frames = np.empty((FRAMES, height, width, 3), np.uint8)
    frames[:] = (40, 90, 160)
    if kind == "noise":
        frames[:] = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    if kind == "square":
        side = height // 3
        for number, frame in enumerate(frames):
            frame[side : 2 * side, 4 * number : 4 * number + side] = (250, 220, 60)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100, help="chunks encoded of each kind")
    parser.add_argument("--preset", default="ultrafast")
    arguments = parser.parse_args()
    settings = EncodeSettings(preset=arguments.preset)
    print(f"{FRAMES} frames a chunk, libx264 {settings.preset}, one thread, {arguments.chunks} chunks each")
    print(f"{'size':>9} {'frames':>7} {'median ms':>10} {'p99 ms':>7} {'kB':>8}")
    for height, width in ((96, 160), (480, 832)):
        for kind in ("flat", "square", "noise"):
            row(kind, pictures(kind, height, width), settings, arguments.chunks)


def row(kind: str, frames: Frames, settings: EncodeSettings, chunks: int) -> None:
    seconds = []
    for _ in range(chunks):
        started = time.perf_counter()
        media = encode(frames, FPS, settings)
        seconds.append(time.perf_counter() - started)
    _, height, width, _ = frames.shape
    p99_s = statistics.quantiles(seconds, n=100)[98]
    median_ms, kilobytes = 1000 * statistics.median(seconds), len(media.data) / 1000
    print(f"{width:>5}x{height:<3} {kind:>7} {median_ms:>10.1f} {1000 * p99_s:>7.1f} {kilobytes:>8.1f}")


if __name__ == "__main__":
    main()
