"""How long the steps of an operator's call took, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from shared.contracts.fleet import PhaseTime


@contextmanager
def timed(phases: list[PhaseTime], name: str) -> Iterator[None]:
    """A step that raises isn't listed."""
    started = time.perf_counter()
    yield
    phases.append(PhaseTime(name, time.perf_counter() - started))
