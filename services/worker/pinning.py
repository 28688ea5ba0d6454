"""Host memory that a GPU copies from and to by itself."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)


class PageLocked:
    """Locked from now until `release`. The driver keeps what it was told of an address beyond the memory's
    own life, and refuses whatever comes to lie there later: other host memory, or the device's.

    `tensor`: over the same bytes. torch's own page-locked memory comes in powers of two.
    """

    def __init__(self, memory: npt.NDArray[np.uint8], device: str, cuda: Any) -> None:
        """`cuda`: torch's. Raises `RuntimeError`, and then nothing is locked."""
        torch = sys.modules["torch"]
        self.tensor: Any = torch.from_numpy(memory)
        self._device, self._cuda, self._locked = device, cuda, False
        with cuda.device(device):
            status = int(cuda.cudart().cudaHostRegister(self.tensor.data_ptr(), self.tensor.nbytes, 0))
        self._forgive(status)
        cuda.check_error(status)
        self._locked = True

    def release(self) -> None:
        """After the last copy is over. Idempotent."""
        if not self._locked:
            return
        self._locked = False
        with self._cuda.device(self._device):
            status = int(self._cuda.cudart().cudaHostUnregister(self.tensor.data_ptr()))
        self._forgive(status)
        if status:
            logger.warning("host memory stays page-locked: CUDA error %d", status)

    def _forgive(self, status: int) -> None:
        """A call that failed stays the thread's last error, of which the next kernel would be accused."""
        if status:
            with contextlib.suppress(RuntimeError):
                sys.modules["torch"].ones(1, device=self._device)
