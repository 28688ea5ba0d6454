"""A session's whole chunk at 480×832: steps, clean pass, decode, pictures on the host, encoding beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.gpu.lab import Setting, fill_window, seconds
from bench.gpu.report import Report
from services.worker.models.protocol import Rung
from services.worker.models.wan.frames import Later
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State

_CHUNKS = 8

Encode = Callable[[Any], Any]


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    model = setting.model()
    state = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [state])
    encode = encoder_of(report, model)
    for rung in model.spec.rungs:
        _one_by_one(setting, report, model, state, rung)
        _overlapped(report, model, state, rung, encode)


def _one_by_one(setting: Setting, report: Report, model: Wan, state: State, rung: Rung) -> None:
    steps, decodes = [], []
    for number in range(_CHUNKS + 1):
        forwards = model.begin_chunk(state, rung)
        took = [seconds(lambda: model.forward([state]), setting.device) for _ in range(forwards)]
        decoded = seconds(lambda: model.decode(state), setting.device)
        if number:
            steps += took
            decodes.append(decoded)
    step_s, decode_s = statistics.median(steps), statistics.median(decodes)
    chunk_s = forwards * step_s + decode_s
    frames = model.spec.chunk_frames
    report.row(f"{rung.name}: step; decode and copy", f"{1000 * step_s:.2f} ms; {1000 * decode_s:.2f} ms")
    report.row(f"{rung.name}: chunk of {forwards} forwards", f"{1000 * chunk_s:.1f} ms")
    report.row(
        f"{rung.name}: frames/s without decoding; with",
        f"{frames / (forwards * step_s):.1f}; {frames / chunk_s:.1f}",
    )
    report.figures[rung.name] = {
        "step_s": step_s,
        "decode_s": decode_s,
        "chunk_s": chunk_s,
        "forwards": forwards,
    }


def _overlapped(
    report: Report,
    model: Wan,
    state: State,
    rung: Rung,
    encode: Encode | None,
) -> None:
    """As the engine does it: pictures are waited for, and encoded, on another thread."""
    jobs: list[Future] = []
    with ThreadPoolExecutor(1) as encoder:
        started = time.perf_counter()
        for _ in range(_CHUNKS):
            for _ in range(model.begin_chunk(state, rung)):
                model.forward([state])
            later = model.decode_later(state)
            jobs.append(encoder.submit(_finish, later, encode))
        for job in jobs:
            job.result(timeout=120)
        took = time.perf_counter() - started
    rate = _CHUNKS * model.spec.chunk_frames / took
    what = "encoded" if encode else "on the host"
    report.row(f"{rung.name}: frames/s {what}, decode and encode beside the next chunk", f"{rate:.1f}")
    report.figures[f"{rung.name} end to end fps"] = rate


def _finish(later: Later, encode: Encode | None) -> None:
    frames = later()
    if encode:
        encode(frames)


def encoder_of(report: Report, model: Wan) -> Encode | None:
    try:
        from services.worker.encode import EncodeSettings
        from services.worker.encode import encode as h264
    except ImportError:
        report.notes.append("PyAV isn't there: frames are not encoded")
        return None
    return lambda frames: h264(frames.numpy(), model.spec.fps, EncodeSettings())
