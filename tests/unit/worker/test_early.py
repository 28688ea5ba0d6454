"""What is begun with the process: once, on threads, and whatever goes wrong there."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.worker import early

DEADLINE_S = 30.0
WORKS = ("_torch", "_key", "_c_compiler")


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As in a process that has a GPU and has begun nothing."""
    interval_s = sys.getswitchinterval()
    monkeypatch.setattr(early, "_begun", threading.Event())
    monkeypatch.setattr(early, "_GPUS", tmp_path)
    yield
    sys.setswitchinterval(interval_s)


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released by each work."""
    semaphore = threading.Semaphore(0)
    for name in WORKS:
        monkeypatch.setattr(early, name, semaphore.release)
    return semaphore


@pytest.mark.parametrize("device", ["auto", "cuda:1"])
def test_all_is_begun_once(began: threading.Semaphore, device: str) -> None:
    early.begin(device)
    assert all(began.acquire(timeout=DEADLINE_S) for _ in WORKS)
    early.begin(device)
    assert not began.acquire(blocking=False)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_nothing_is_begun_without_a_gpu(
    began: threading.Semaphore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    if device == "auto":
        monkeypatch.setattr(early, "_GPUS", tmp_path / "none")
    early.begin(device)
    assert not early._begun.is_set()
    assert not began.acquire(blocking=False)


def test_what_fails_is_left_to_whoever_needs_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ImportError("no module named triton")

    with caplog.at_level(logging.DEBUG):
        early._tried("Triton's key", fail)
    assert "no module named triton" in caplog.text
    assert "loaded" not in caplog.text


def test_a_machine_without_a_compiler_or_triton_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    early._c_compiler()
    early._key()
    early._read_ahead(tmp_path / "none")
