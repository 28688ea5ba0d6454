"""A session's state to the host and back, by the worker's own host pool, beside another session's steps."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench.gpu.errors import twin
from bench.gpu.lab import Setting, chunk, fill_window, settle
from bench.gpu.report import Report, quantile
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State
from services.worker.offload import HostPool, Mirror

_ROUNDS = 30


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    model = setting.model(slots=3)
    size = model.spec.state_bytes
    started = time.perf_counter()
    pool = HostPool(2, size, str(setting.device))
    allocated_s = time.perf_counter() - started
    report.row("page-locking two slots", f"{allocated_s:.2f} s, {allocated_s / (2 * size / 2**30):.2f} s/GiB")
    state = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [state])
    other = twin(model, state)
    rung = model.spec.rungs[0]
    mirror = pool.lease()
    assert mirror is not None
    freed, back, copied, behind = [], [], [], []
    for number in range(_ROUNDS + 1):
        chunk(model, [state], rung)
        pool.save(mirror, model.memory(state), model.parts(state))  # what is written behind every chunk
        for _ in range(model.begin_chunk(state, rung)):
            model.forward([state])
        ahead = pool.save(mirror, model.memory(state), model.parts(state))
        model.decode(state)
        started = time.perf_counter()
        saved = pool.save(mirror, model.memory(state), model.parts(state))
        while not saved.over:
            time.sleep(0)
        freed_s = time.perf_counter() - started
        for _ in range(model.begin_chunk(other, rung)):
            model.forward([other])  # beside it
        started = time.perf_counter()
        loaded = pool.load(mirror, model.memory(state))
        while not loaded.over:
            time.sleep(0)
        back_s = time.perf_counter() - started
        pool.join(loaded)
        settle(setting.device)
        model.decode(other)
        if number:
            freed.append(freed_s)
            back.append(back_s)
            copied.append(loaded.duration_s)
            behind.append(ahead.bytes)
    for what, times in (("suspend: slot free after the boundary", freed), ("resume: state back", back)):
        said = f"p50 {1000 * statistics.median(times):.2f} ms, p95 {1000 * quantile(times, 0.95):.2f} ms"
        report.row(what, said, what, {"p50_s": statistics.median(times), "p95_s": quantile(times, 0.95)})
    rate = size / statistics.median(copied)
    report.row("resume: copy alone", f"{rate / 1e9:.1f} GB/s of {size:,} bytes", "resume_bytes_per_s", rate)
    report.row("written behind a chunk before its boundary", f"{statistics.median(behind):,.0f} bytes")
    _beside(setting, report, model, pool, mirror, state, other)


def _beside(
    setting: Setting, report: Report, model: Wan, pool: HostPool, mirror: Mirror, state: State, other: State
) -> None:
    """How much a whole state's copy slows the steps beside it."""
    rung = model.spec.rungs[0]

    def steps() -> float:
        forwards = model.begin_chunk(other, rung)
        settle(setting.device)
        started = time.perf_counter()
        for _ in range(forwards):
            model.forward([other])
        settle(setting.device)
        took = time.perf_counter() - started
        model.decode(other)
        return took

    alone, copying = [], []
    for _ in range(5):
        alone.append(steps())
        mirror.versions = {}
        pool.save(mirror, model.memory(state), model.parts(state))
        copying.append(steps())
    ratio = statistics.median(copying) / statistics.median(alone)
    report.row("a chunk's steps with a whole state leaving ÷ without", f"{ratio:.3f}", "slowed", ratio)
