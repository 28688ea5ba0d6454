"""A cancellation that comes together with an answer must not be forgotten.

`asyncio.wait_for` of Python 3.11, with which nats-py bounds its requests, returns the answer then and drops
the cancellation: a loop that was told to end would go on for ever. 3.12 mended it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def heeding_cancellation() -> Iterator[None]:
    """Raises `CancelledError` at the end if the task was cancelled meanwhile, whatever came of the work.

    Work inside a task's clean-up, after an earlier cancellation, is not disturbed.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
