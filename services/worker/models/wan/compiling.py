"""Kernels compiled by several threads of several workers of a host, each kernel by one of them."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

from services.worker.models.wan.host_lock import host_lock, host_lock_if_free

logger = logging.getLogger(__name__)

_LOCK_DEADLINE_S = 20.0
"""For a kernel that another worker is compiling: much longer than any takes."""
Work = Callable[[], Any]
"""Compiles a kernel, or finds it in the cache that a host's workers share."""


class Divided:
    """Takes Triton's work and hands it to threads. A kernel that another worker is at is left for later, when
    it lies in the cache. Kernels go by the order in which they are asked for, which is the same in workers
    that start alike; others only wait for each other in vain.
    """

    def __init__(self, threads: Executor, folder: Path | None) -> None:
        """`folder`: where the host's workers tell each other. None: each compiles all."""
        self._threads, self._folder = threads, folder
        self._numbers = itertools.count()
        self._loading: dict[str, threading.Lock] = {}
        self.elsewhere: list[Path] = []
        """The locks of those that another worker was at."""

    def submit(self, work: Work) -> Future[Any]:
        """As an executor's, for Triton."""
        if self._folder is None:
            return self._threads.submit(self._loaded, work)
        made: Future[Any] = Future()
        self._begin(made, self._if_free, self._folder / f"{next(self._numbers)}.lock", work)
        return made

    def _begin(self, made: Future[Any], how: Callable[..., None], path: Path, work: Work) -> None:
        begun = self._threads.submit(how, made, path, work)
        begun.add_done_callback(partial(_tell_error, made))

    def _if_free(self, made: Future[Any], path: Path, work: Work) -> None:
        with host_lock_if_free(path) as free:
            if free:
                made.set_result(self._loaded(work))
                return
        self.elsewhere.append(path)
        self._begin(made, self._after, path, work)

    def _after(self, made: Future[Any], path: Path, work: Work) -> None:
        with host_lock(path, _LOCK_DEADLINE_S, told=False):
            made.set_result(self._loaded(work))

    def _loaded(self, work: Work) -> Any:
        kernel = work()
        self._load(kernel)
        return kernel

    def _load(self, kernel: Any) -> None:
        """Those of a name that take the same types share a launcher, which a C compiler makes once."""
        with self._loading.setdefault(kernel.name, threading.Lock()):
            try:
                _ = kernel.run
            except Exception as error:  # noqa: BLE001 whoever launches it is told too
                logger.debug("%s can't be loaded: %s", kernel.name, error)


def _tell_error(made: Future[Any], begun: Future[None]) -> None:
    """Also where no thread came to it."""
    if (error := begun.exception()) is not None:
        made.set_exception(error)
