"""How long each part of a start took: what makes one slow is asked often."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def timed(phase: str) -> Iterator[None]:
    """Says nothing where it failed."""
    started = time.perf_counter()
    yield
    logger.info("loaded: %s in %.2f s", phase, time.perf_counter() - started)
