"""Page-locked memory is unlocked again, and a lock that fails leaves nothing behind."""

import contextlib

import numpy as np
import pytest
import torch

from services.worker.pinning import PageLocked

ALREADY, NEVER = 712, 713


class Driver:
    """As CUDA's manual has the two calls: nothing is locked twice, and only what is locked is unlocked."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, start: int, size: int, _: int) -> int:  # noqa: N802 CUDA's name
        if any(start < at + long and at < start + size for at, long in self.locked.items()):
            return ALREADY
        self.locked[start] = size
        return 0

    def cudaHostUnregister(self, start: int) -> int:  # noqa: N802 CUDA's name
        return 0 if self.locked.pop(start, None) else NEVER

    # What torch.cuda adds.

    def cudart(self) -> "Driver":
        return self

    def device(self, _: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def check_error(self, status: int) -> None:
        if status:
            raise RuntimeError(f"CUDA error {status}")


def test_memory_can_be_locked_again_once_it_was_released() -> None:
    driver, memory = Driver(), np.zeros((2, 4096), np.uint8)
    first = PageLocked(memory, "cpu", driver)
    assert first.tensor.data_ptr() == memory.ctypes.data
    assert driver.locked == {memory.ctypes.data: memory.nbytes}
    first.release()
    assert not driver.locked
    second = PageLocked(memory, "cpu", driver)
    first.release()
    assert driver.locked
    second.release()
    assert not driver.locked


def test_a_lock_that_fails_is_told_and_never_released() -> None:
    driver, memory = Driver(), np.zeros(8192, np.uint8)
    held = PageLocked(memory, "cpu", driver)
    with pytest.raises(RuntimeError, match="712"):
        PageLocked(memory[4096:], "cpu", driver)
    assert driver.locked == {memory.ctypes.data: memory.nbytes}
    memory[:] = 5
    assert torch.equal(held.tensor, torch.full((8192,), 5, dtype=torch.uint8))
    held.release()
    assert not driver.locked
