"""Kernels compiled by several threads of several workers of a host, each kernel by one of them."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
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
        made: Future[Any] = Future()
        if self._folder is None:
            self._threads.submit(self._fulfil, made, work)
        else:
            path = self._folder / f"{next(self._numbers)}.lock"
            self._threads.submit(self._if_free, path, made, work)
        return made

    def _if_free(self, path: Path, made: Future[Any], work: Work) -> None:
        with host_lock_if_free(path) as free:
            if free:
                self._fulfil(made, work)
                return
        self.elsewhere.append(path)
        try:
            self._threads.submit(self._after, path, made, work)
        except RuntimeError as error:  # the process ends
            made.set_exception(error)

    def _after(self, path: Path, made: Future[Any], work: Work) -> None:
        with host_lock(path, _LOCK_DEADLINE_S, told=False):
            self._fulfil(made, work)

    def _fulfil(self, made: Future[Any], work: Work) -> None:
        try:
            kernel = work()
            self._load(kernel)
        except BaseException as error:  # noqa: BLE001 as an executor does
            made.set_exception(error)
            return
        made.set_result(kernel)

    def _load(self, kernel: Any) -> None:
        """Those of a name that take the same types share a launcher, which a C compiler makes once."""
        with self._loading.setdefault(kernel.name, threading.Lock()):
            try:
                _ = kernel.run
            except Exception as error:  # noqa: BLE001 whoever launches it is told too
                logger.debug("%s can't be loaded: %s", kernel.name, error)
