"""From nothing to ready, phase by phase, in a process of its own that has loaded nothing before."""

from __future__ import annotations

import time
from pathlib import Path

from bench.gpu.lab import LARGE, Setting, fill_window, settle
from bench.gpu.report import Report
from services.worker.offload import HostPool


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    started = last = time.perf_counter()

    def phase(name: str) -> None:
        nonlocal last
        settle(setting.device)
        now = time.perf_counter()
        report.row(name, f"{now - last:.2f} s", name, now - last)
        last = now

    model = setting.model(LARGE, slots=8)
    phase("weights made, forms compared, pools allocated")
    state = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [state])
    phase("first session's window filled, graphs captured for every slot")
    HostPool(4, model.spec.state_bytes, str(setting.device))
    phase("host pool of 4 slots page-locked")
    report.row("all", f"{time.perf_counter() - started:.2f} s", "all_s", time.perf_counter() - started)
    report.notes.append("reading weights from files is not in it: there are none here")
