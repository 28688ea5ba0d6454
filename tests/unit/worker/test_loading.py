"""What doesn't fit a machine is refused at start, in words."""

import logging
from typing import Any

import pytest

from services.worker import loading, measure, runner
from services.worker.settings import WorkerSettings
from shared.process import StartupError


def settings(**changes: Any) -> WorkerSettings:
    tiny = {"model": "tiny", "model_loader": "tests.fixtures.tiny_model", "device": "cpu"}
    return WorkerSettings(**(tiny | changes))


def failing(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(("module", "name"), [(runner, "load"), (measure, "measure")])
def test_a_model_that_does_not_fit_the_device(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    monkeypatch.setattr(module, name, failing(RuntimeError("CUDA out of memory. Tried\n more")))
    with pytest.raises(
        StartupError, match="tiny doesn't fit TURBOSERVE_WORKER_DEVICE=cpu: CUDA out of memory"
    ):
        loading.load(settings())
    monkeypatch.setattr(module, name, failing(RuntimeError("a fault of the model's")))
    with pytest.raises(RuntimeError, match="a fault of the model's"):
        loading.load(settings())


def test_host_memory_that_cannot_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "HostPool", failing(RuntimeError("CUDA error: operation not permitted")))
    with pytest.raises(StartupError, match=r"HOST_POOL_GIB=1: .*not permitted; set aside less"):
        loading.load(settings())


def test_host_memory_too_small_for_a_session_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert loading.load(settings(host_pool_gib=1e-6)).room.host == 0
    assert "TURBOSERVE_WORKER_HOST_POOL_GIB=1e-06 holds no session: one of tiny takes" in caplog.text
    caplog.clear()
    assert loading.load(settings(host_pool_gib=0)).room.host == 0
    assert not caplog.records
