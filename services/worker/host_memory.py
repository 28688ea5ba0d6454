"""Host memory for suspended sessions, set aside once. Page-locking takes seconds, most of them for pages that
nobody has touched yet, and needs nothing of the model: so it is done beside the model's making.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from services.worker.pinning import PageLocked
from services.worker.runner import choose_device

logger = logging.getLogger(__name__)

_TOUCHING = 4
_PAGE_BYTES = 4096


class HostMemory:
    """Plain until it is locked. Not touched either, so that a CPU's pool takes no more than is used of it."""

    def __init__(self, size_bytes: int) -> None:
        """Raises `MemoryError`."""
        self._memory = np.empty(size_bytes, np.uint8)
        self._touched = False
        self._locked: PageLocked | None = None

    def touch(self) -> None:
        if not self._touched:
            _touch(self._memory)
        self._touched = True

    def lock(self, device: str) -> PageLocked:
        """For that GPU. Idempotent. Raises `RuntimeError`."""
        self.touch()
        if self._locked is None:
            self._locked = PageLocked(self._memory, device, sys.modules["torch"].cuda)
        return self._locked

    def release(self) -> None:
        if self._locked is not None:
            self._locked.release()

    def rows(self, slots: int, slot_bytes: int) -> Any:
        """[slots, slot_bytes], of its beginning."""
        flat = self._memory if self._locked is None else self._locked.tensor
        return flat[: slots * slot_bytes].reshape(slots, slot_bytes)


def beside(size_bytes: int, wanted: str) -> Future[HostMemory]:
    """Made on a thread of its own, which ends with the process whatever it is at. `wanted`: the device, as
    settings name it.
    """
    made: Future[HostMemory] = Future()

    def make() -> None:
        started = time.perf_counter()
        try:
            memory = HostMemory(size_bytes)
            if wanted.startswith("cuda"):
                memory.touch()  # whoever else imports torch meanwhile has the interpreter to itself
            touched_s = time.perf_counter() - started
            if size_bytes and (device := choose_device(wanted)).startswith("cuda"):
                memory.lock(device)
        except Exception as error:  # noqa: BLE001 for whoever asks for the result
            made.set_exception(error)
            return
        text = "loaded: host memory in %.2f s, beside the model; its pages were there after %.2f s"
        logger.info(text, time.perf_counter() - started, touched_s)
        made.set_result(memory)

    threading.Thread(target=make, name="device's host memory", daemon=True).start()
    return made


def _touch(memory: npt.NDArray[np.uint8]) -> None:
    """Has the system find a page for every address, by several threads: locking by one does it too, but
    slowly. They too end with the process.
    """
    parts = np.array_split(memory[::_PAGE_BYTES], _TOUCHING)
    threads = [threading.Thread(target=part.fill, args=(0,), name="pages", daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
