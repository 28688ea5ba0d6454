"""python -m bench.gpu PART [--out DIR] [--device cuda] [--tiny]"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch

from bench.gpu.lab import Setting
from bench.gpu.machine import machine
from bench.gpu.report import Report

PARTS = {
    "forward": "bench.gpu.forward:run",
    "chunk": "bench.gpu.chunk:run",
    "fp8": "bench.gpu.fp8:run",
    "small": "bench.gpu.coalescing:small",
    "streams": "bench.gpu.streams:run",
    "suspend": "bench.gpu.suspend:run",
    "rebuild": "bench.gpu.rebuild:run",
    "move": "bench.gpu.system.command:moves_part",
    "coalescing": "bench.gpu.coalescing:large",
    "start": "bench.gpu.start:run",
    "cycles": "bench.gpu.cycles:run",
    "system": "bench.gpu.system.command:part",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder for JSON and profiles")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: small shapes, figures mean nothing")
    parser.add_argument("--seconds", type=float, default=25.0, help="how long viewers watch, of `streams`")
    parser.add_argument("--cycles", type=int, default=1000, help="of `cycles`, but for a rehearsal")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
    elif not asked.tiny:
        parser.error("there is no GPU here; --tiny rehearses on the CPU")
    torch.set_num_threads(1)
    module, _, name = PARTS[asked.part].partition(":")
    report = Report(asked.part, machine(device))
    report.begin()
    try:
        setting = Setting(device, asked.tiny, asked.seconds, asked.cycles)
        getattr(import_module(module), name)(setting, report, asked.out)
    finally:
        report.write(asked.out)


if __name__ == "__main__":
    main()
