"""What the worker's device says of itself. Telling nothing is never an error."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from shared.contracts.fleet import DeviceReport

_ASK_EVERY_S = 0.5


class Device:
    """`torch_device` as the model was given it: "cpu", "cuda", "cuda:1"."""

    def __init__(self, torch_device: str) -> None:
        self.kind = torch_device.partition(":")[0]
        self._gpu = _gpu(torch_device) if self.kind == "cuda" else None
        self._name = _cpu_name()
        self._latest: DeviceReport | None = None
        self._asked_at = 0.0

    def report(self) -> DeviceReport:
        """At most half a second old: drivers take their time, and CPU load needs some to be counted."""
        now = time.monotonic()
        if self._latest is None or now - self._asked_at > _ASK_EVERY_S:
            self._latest, self._asked_at = self._ask(), now
        return self._latest

    def _ask(self) -> DeviceReport:
        if self._gpu is not None:
            with contextlib.suppress(Exception):  # a driver in trouble says so elsewhere
                return self._gpu_report(*self._gpu)
        memory = psutil.virtual_memory()
        return DeviceReport(
            self._name,
            self.kind,
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.total - memory.available,
            utilisation_ratio=psutil.cpu_percent() / 100 if self.kind == "cpu" else None,
        )

    def _gpu_report(self, nvml: Any, handle: Any) -> DeviceReport:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = nvml.nvmlDeviceGetName(handle)
        return DeviceReport(
            name if isinstance(name, str) else name.decode(),
            self.kind,
            memory_total_bytes=int(memory.total),
            memory_used_bytes=int(memory.used),
            utilisation_ratio=_told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            power_w=_told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            temperature_c=_told(
                lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            ),
        )


def _told(ask: Callable[[], float]) -> float | None:
    """None: it isn't told here, as of a slice of a GPU."""
    with contextlib.suppress(Exception):
        return ask()
    return None


def _gpu(torch_device: str) -> tuple[Any, Any] | None:
    """NVML and its handle of the GPU that torch means."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cuda = sys.modules["torch"].cuda
        uuid = str(cuda.get_device_properties(torch_device).uuid)
        return pynvml, handle_of(pynvml, uuid, int(torch_device.partition(":")[2] or 0))
    except Exception:  # noqa: BLE001 no driver, no library, no such GPU
        return None


def handle_of(nvml: Any, uuid: str, index: int) -> Any:
    """By the id that torch gives without a prefix: torch numbers only the GPUs that the process may see (in
    an order of its own), NVML all of them. By `index` where NVML knows no such id. Raises what NVML raises.
    """
    for prefix in ("GPU", "MIG"):
        with contextlib.suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetHandleByUUID(f"{prefix}-{uuid}")
    return nvml.nvmlDeviceGetHandleByIndex(index)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
