"""A thousand sessions opened, played, suspended, resumed and closed at the small geometry: nothing stays."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import psutil
import torch

from bench.gpu.lab import Setting, chunk, settle
from bench.gpu.report import Report
from services.worker.models.wan.config import SMALL
from services.worker.offload import HostPool

_CYCLES, _WARM_UP, _REHEARSED = 1000, 100, 20


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    model = setting.model(SMALL, slots=4)
    pool = HostPool(4, model.spec.state_bytes, str(setting.device))
    process, resident = psutil.Process(), []
    device_before = 0
    started = time.perf_counter()
    cycles, warm_up = (_REHEARSED, 10) if setting.tiny else (_CYCLES, _WARM_UP)
    for number in range(warm_up + cycles):
        if number == warm_up:
            device_before = _device_bytes(setting)
        state = model.open(seed=number, prompt=f"session {number}")
        chunk(model, [state], model.spec.rungs[number % 2])
        mirror = pool.lease()
        assert mirror is not None
        pool.join(pool.save(mirror, model.memory(state), model.parts(state)))
        counters = model.counters(state)
        model.close(state)
        back = model.reserve()
        pool.join(pool.load(mirror, model.memory(back)))
        model.take_over(back, counters)
        pool.free(mirror)
        chunk(model, [back], model.spec.rungs[0])
        model.close(back)
        if number >= warm_up and number % 10 == 0:
            resident.append(process.memory_info().rss)
    took = time.perf_counter() - started
    grown = _device_bytes(setting) - device_before
    fifth = max(1, len(resident) // 5)
    slope = sorted(resident[-fifth:])[fifth // 2] - sorted(resident[:fifth])[fifth // 2]
    report.row("cycles a second", f"{(warm_up + cycles) / took:.1f}")
    report.row("device memory in use, after less before", f"{grown:,} bytes", "device_bytes", grown)
    report.row("process memory, last fifth less first", f"{slope / 1e6:.1f} MB", "resident_bytes", slope)
    report.row(
        "slots free", f"{model.pool.free_slots} of 4 on the device, {pool.free_slots} of 4 on the host"
    )
    report.notes.append("moves between workers are not among the cycles")


def _device_bytes(setting: Setting) -> int:
    gc.collect()
    settle(setting.device)
    return torch.cuda.memory_allocated(setting.device) if setting.device.type == "cuda" else 0
