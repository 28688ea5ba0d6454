"""What a figure was measured on."""

from __future__ import annotations

import platform
import subprocess
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Clocks and power are those of the moment."""
    about: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    if device.type != "cuda":
        return about | {"device": f"{platform.processor() or platform.machine()}, one thread: a rehearsal"}
    properties = torch.cuda.get_device_properties(device)
    about |= {
        "device": properties.name,
        "devices": torch.cuda.device_count(),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": _version("triton"),
    }
    fields = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu"
    asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return about
    names = ("driver", "sm_clock", "memory_clock", "max_sm_clock", "power", "temperature")
    return about | dict(zip(names, (part.strip() for part in said.strip().split(",")), strict=False))


def _version(module: str) -> str:
    try:
        return str(__import__(module).__version__)
    except ImportError:
        return "none"
