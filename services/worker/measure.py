"""How fast this device is with this model, found out at start by a throw-away session. It warms everything
up as well.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from services.worker import encode
from services.worker.models.protocol import ModelSpec, State
from services.worker.runner import Runner
from shared.contracts.fleet import LatencyPoint

HEADROOM = 0.9  # of real time; the rest is for what a quiet start doesn't show
_MEASURED_CHUNKS = 4
_MEASURE_DEADLINE_S = 20.0


class Measured(NamedTuple):
    """One full chunk at the default rung. `device_s`: forwards and decode; `encode_s` runs beside."""

    device_s: float
    encode_s: float

    def curve(self, rung: str) -> list[LatencyPoint]:
        return [LatencyPoint(1, self.device_s, rung)]


def capacity(measured: Measured, chunk_duration_s: float, slots: int) -> int:
    """How many active sessions keep up with real time, stepped one after another. At least one, however
    slow.
    """
    busiest_s = max(measured.device_s, measured.encode_s, 1e-6)
    return max(1, min(slots, math.floor(HEADROOM * chunk_duration_s / busiest_s)))


def measure(runner: Runner, settings: encode.EncodeSettings) -> Measured:
    """Measures once the window is full: chunks are cheaper before. The quickest of a few counts, since
    what disturbs a worker at start (other services starting) passes. A very slow device makes fewer.
    """
    rung = runner.spec.rungs[0]
    warm_up = 1 + math.ceil(rung.window_latent_frames / runner.spec.latent_frames_per_chunk)
    state = runner.open(seed=0, prompt="", first_chunk=0)
    times: list[tuple[float, float]] = []
    deadline = time.monotonic() + _MEASURE_DEADLINE_S
    while len(times) < warm_up + _MEASURED_CHUNKS and (len(times) < 2 or time.monotonic() < deadline):
        times.append(_one_chunk(runner, state, rung.name, settings))
    device_s, encode_s = zip(*times[1:][-_MEASURED_CHUNKS:], strict=True)
    return Measured(min(device_s), min(encode_s))


def _one_chunk(
    runner: Runner, state: State, rung: str, settings: encode.EncodeSettings
) -> tuple[float, float]:
    started = time.perf_counter()
    for _ in range(runner.begin_chunk(state, rung)):
        runner.forward([state])
    frames = runner.decode(state)
    decoded = time.perf_counter()
    encode.encode(frames, runner.spec.fps, settings)
    return decoded - started, time.perf_counter() - decoded


def chunk_duration_s(spec: ModelSpec) -> float:
    return spec.chunk_frames / spec.fps
