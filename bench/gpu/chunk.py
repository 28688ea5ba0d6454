"""A session's whole chunk at 480×832: steps, clean pass, decode, pictures on the host, encoding beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.gpu.lab import Setting, fill_window, seconds, settle
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
        _latency(setting, report, model, state, rung, encode)
    if encode:
        _encoders(report, model, state, model.spec.rungs[0])


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
    jobs: list[Future[float]] = []
    with ThreadPoolExecutor(1) as encoder:
        started = time.perf_counter()
        for _ in range(_CHUNKS):
            begun = time.perf_counter()
            later = shown_early(model, state, rung)
            jobs.append(encoder.submit(_finish, later, encode, begun))
        for job in jobs:
            job.result(timeout=120)
        took = time.perf_counter() - started
    rate = _CHUNKS * model.spec.chunk_frames / took
    what = "encoded" if encode else "on the host"
    report.row(f"{rung.name}: frames/s {what}, decode and encode beside the next chunk", f"{rate:.1f}")
    report.figures[f"{rung.name} end to end fps"] = rate


def _latency(
    setting: Setting, report: Report, model: Wan, state: State, rung: Rung, encode: Encode | None
) -> None:
    """Of one chunk with nothing before it: from its beginning to its media."""
    took = []
    for _ in range(_CHUNKS):
        settle(setting.device)
        begun = time.perf_counter()
        took.append(_finish(shown_early(model, state, rung), encode, begun))
    latency_s = statistics.median(took)
    report.row(f"{rung.name}: from a chunk's beginning to its media", f"{1000 * latency_s:.1f} ms")
    report.figures[f"{rung.name} latency_s"] = latency_s


def _encoders(report: Report, model: Wan, state: State, rung: Rung) -> None:
    """A chunk's pictures by so many threads."""
    from services.worker.encode import EncodeSettings
    from services.worker.encode import encode as h264

    frames = shown_early(model, state, rung)().numpy()
    took_ms = {}
    for threads in (1, 2, 4, 8, 16):
        settings = EncodeSettings(threads=threads)
        took = []
        for _ in range(5):
            started = time.perf_counter()
            made = h264(frames, model.spec.fps, settings)
            took.append(time.perf_counter() - started)
        took_ms[threads] = 1000 * statistics.median(took)
    told = ", ".join(f"{threads}: {ms:.1f}" for threads, ms in took_ms.items())
    report.row("encoding a chunk, ms by threads", f"{told} ({len(made.data):,} bytes)", "encode_ms", took_ms)


def shown_early(model: Wan, state: State, rung: Rung) -> Later:
    """A chunk told to the device as the engine tells it: its pictures before the forwards that they don't
    need.
    """
    left = model.begin_chunk(state, rung)
    while not model.pictures_final(state):
        model.forward([state])
        left -= 1
    later = model.decode_later(state)
    for _ in range(left):
        model.forward([state])
    return later


def _finish(later: Later, encode: Encode | None, begun: float) -> float:
    """Seconds since the chunk was begun."""
    frames = later()
    if encode:
        encode(frames)
    return time.perf_counter() - begun


def encoder_of(report: Report, model: Wan) -> Encode | None:
    try:
        from services.worker.encode import EncodeSettings
        from services.worker.encode import encode as h264
        from services.worker.encoding import cores, threads_for
    except ImportError:
        report.notes.append("PyAV isn't there: frames are not encoded")
        return None
    settings = EncodeSettings(threads=threads_for(cores()))
    return lambda frames: h264(frames.numpy(), model.spec.fps, settings)
