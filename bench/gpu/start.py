"""From nothing to ready, phase by phase: what a worker does before it tells anyone, in processes of its own,
one for each of up to two GPUs at the same time. A first start, for which nothing is kept of earlier ones, and
a second one.

    python -m bench.gpu.start DEVICE MODEL WEIGHTS HOST_POOL_GIB     one of those processes
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench.gpu.lab import Setting
from bench.gpu.report import Report

_DEADLINE_S = 100.0
_HOST_POOL_GIB = 24
_WORKERS = 2
_PHASE = re.compile(r"(?P<what>(?:loaded: |forms ).*?),? (?:tried )?in (?P<seconds>[\d.]+) s")


def run(setting: Setting, report: Report, out: Path) -> None:
    with tempfile.TemporaryDirectory() as kept:
        for which in ("first", "second"):
            _start(which, setting, report, out, _environment(Path(kept)))
    report.notes.append("reading weights from files is not in it: there are none here; nor is joining NATS")


def _environment(kept: Path) -> dict[str, str]:
    """All that is kept between starts: chosen forms, compiled kernels."""
    folders = {
        "XDG_CACHE_HOME": kept,
        "TRITON_CACHE_DIR": kept / "triton",
        "TORCHINDUCTOR_CACHE_DIR": kept / "inductor",
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {name: str(folder) for name, folder in folders.items()}


def _start(which: str, setting: Setting, report: Report, out: Path, environment: Mapping[str, str]) -> None:
    devices = _devices(setting)
    model = ("sprites", "", "0.1") if setting.tiny else ("wan2.1-t2v-1.3b", "random:1", str(_HOST_POOL_GIB))
    started = time.perf_counter()
    logs = {device: out / f"start-{which}-{device.replace(':', '')}.log" for device in devices}
    out.mkdir(parents=True, exist_ok=True)
    processes = {}
    for device, log in logs.items():
        command = [sys.executable, "-m", "bench.gpu.start", device, *model]
        with log.open("w") as file:
            processes[device] = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    for device, process in processes.items():
        try:
            code = process.wait(max(1.0, started + _DEADLINE_S - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(10)
        _tell(report, f"{which} start, {device} of {len(devices)}", logs[device].read_text(), code)


def _devices(setting: Setting) -> list[str]:
    if setting.device.type != "cuda":
        return ["cpu"]
    import torch

    return [f"cuda:{number}" for number in range(min(_WORKERS, torch.cuda.device_count()))]


def _tell(report: Report, what: str, log: str, code: int) -> None:
    phases = {found["what"]: float(found["seconds"]) for found in _PHASE.finditer(log)}
    for phase, seconds in phases.items():
        report.row(f"{what}: {phase.removeprefix('loaded: ')}", f"{seconds:.2f} s")
    ready = re.search(r"ready after ([\d.]+) s", log)
    if ready is None:
        report.row(what, f"failed ({code}): {log.strip().splitlines()[-1:]}")
        return
    report.row(what, f"ready after {float(ready[1]):.1f} s", what, phases | {"ready": float(ready[1])})


def _one(device: str, model: str, weights: str, host_pool_gib: str) -> None:
    began = time.time() - _age_s()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    from services.worker import early

    early.begin(device)
    from services.worker.loading import load
    from services.worker.settings import WorkerSettings

    settings = WorkerSettings(
        model=model, device=device, weights_path=weights, host_pool_gib=float(host_pool_gib)
    )
    loaded = load(settings)
    print(f"capacity {loaded.capacity}, {loaded.room.hot} hot slots, {loaded.room.host} in host memory")
    print(f"ready after {time.time() - began:.2f} s", flush=True)


def _age_s() -> float:
    """Of this process: the interpreter's own start is part of it."""
    import psutil

    return time.time() - psutil.Process().create_time()


if __name__ == "__main__":
    _one(*sys.argv[1:])
