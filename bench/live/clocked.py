"""A model that takes the time a calibration says and computes nothing: the services, and all that they do
around a chunk, on a machine without a GPU, at the pace of one with it.

For a worker: `TURBOSERVE_WORKER_MODEL_LOADER=bench.live.clocked TURBOSERVE_WORKER_MODEL=clocked`, and as
`TURBOSERVE_WORKER_WEIGHTS_PATH` the calibration's file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil

from bench.live.calibrate import Calibration
from services.worker.models import UnknownModel, WeightsError
from services.worker.models.protocol import Rung, SessionModel
from tests.fixtures.tiny_model import SPEC, State, TinyModel

NAME = "clocked"
_STEPS = 4
_MEASURED_CHUNKS = 8
"""A worker makes about so many before it is ready."""


class ClockedModel(TinyModel):
    """`batch_s`: by sessions, of one chunk of each made together; what isn't in it takes as long as apart."""

    def __init__(self, chunk_s: float, batch_s: dict[int, float]) -> None:
        rung = Rung(NAME, _STEPS, SPEC.chunk_frames, "none")
        self.spec = replace(SPEC, name=NAME, fps=SPEC.chunk_frames / chunk_s, steps=_STEPS, rungs=(rung,))
        self._batch_s = batch_s

    def forward(self, states: Sequence[State]) -> None:
        begun_s, rows = time.perf_counter(), len(states)
        super().forward(states)
        step_s = self._batch_s.get(rows, rows * self._batch_s[1]) / _STEPS
        time.sleep(max(0.0, begun_s + step_s - time.perf_counter()))


def load_model(name: str, *, weights_path: str, **_: object) -> SessionModel:
    """Returns so late that its process is ready after about the calibration's boot."""
    if name != NAME:
        raise UnknownModel(f"there is no model {name!r} here; use {NAME}")
    try:
        calibration = msgspec.json.decode(Path(weights_path).read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError) as error:
        raise WeightsError(f"{weights_path} is no calibration: {error}") from None
    profile = calibration.profile
    batch_s = dict(profile.gpus[0].batch_s)
    ready_at = psutil.Process().create_time() + calibration.boot_s - _MEASURED_CHUNKS * batch_s[1]
    time.sleep(max(0.0, ready_at - time.time()))
    return ClockedModel(profile.chunk_s, batch_s)
