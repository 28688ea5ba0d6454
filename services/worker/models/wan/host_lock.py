"""Work that one worker of a host does for all: the others wait for it, but not for ever."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_POLL_S = 0.05


@contextlib.contextmanager
def host_lock(path: Path, deadline_s: float, *, told: bool = True) -> Iterator[None]:
    """Held inside, unless another process still holds it at the deadline, or files can't be locked there:
    then all is done without, twice perhaps. The system frees it when its holder dies. Blocks its thread.
    `told`: a wait is worth a line in the log.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
            _wait(file, path, deadline_s, told=told)
        except OSError as error:
            logger.warning("%s can't be locked, so other workers aren't waited for: %s", path, error)
        yield


@contextlib.contextmanager
def host_lock_if_free(path: Path) -> Iterator[bool]:
    """Whether it is held inside; False: another process holds it. Where files can't be locked it is True."""
    with contextlib.ExitStack() as stack:
        free = True
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
            free = _taken(file)
        yield free


def _wait(file: IO[str], path: Path, deadline_s: float, *, told: bool) -> None:
    started = time.monotonic()
    while not _taken(file):
        if time.monotonic() - started > deadline_s:
            logger.warning("another worker holds %s for %g s: it isn't waited for any more", path, deadline_s)
            return
        time.sleep(_POLL_S)
    if (waited_s := time.monotonic() - started) > _POLL_S and told:
        logger.info("loaded: another worker's %s waited for in %.2f s", path.stem, waited_s)


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
