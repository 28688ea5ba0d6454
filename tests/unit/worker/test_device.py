"""Which GPU a worker tells of."""

from __future__ import annotations

import pytest

from services.worker.device import Device, handle_of

_SECOND = "5a6772e7-1b1c-4c2e-9c6e-0f4f2c9d8b11"


class _TwoGpus:
    """NVML of a host with two, of which the second is cut into slices."""

    class NVMLError(Exception):
        pass

    _known = ("GPU-00000000-0000-0000-0000-000000000000", f"GPU-{_SECOND}", "MIG-77777777")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802 NVML's own name
        if uuid not in self._known:
            raise self.NVMLError(uuid)
        return uuid

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return self._known[index]


@pytest.mark.parametrize(
    ("uuid", "index", "meant"),
    [
        pytest.param(_SECOND, 0, f"GPU-{_SECOND}", id="the only one to be seen is the host's second"),
        pytest.param("77777777", 0, "MIG-77777777", id="a slice"),
        pytest.param("gone", 1, f"GPU-{_SECOND}", id="an id that isn't known there"),
    ],
)
def test_the_gpu_that_torch_means(uuid: str, index: int, meant: str) -> None:
    assert handle_of(_TwoGpus(), uuid, index) == meant


def test_without_a_gpu_memory_and_load_are_the_machines() -> None:
    report = Device("cpu").report()
    assert report.memory_total_bytes > report.memory_used_bytes > 0
    assert report.power_w is None


def test_a_gpu_that_tells_nothing_is_no_error() -> None:
    assert Device("cuda:7").report().kind == "cuda"
