"""What one move does between the facts it hears, in tasks that end with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Chores:
    """Event loop only. `on_failure` hears of what nobody has foreseen."""

    def __init__(self, session: str, on_failure: Callable[[str], None]) -> None:
        self._session, self._on_failure = session, on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, wait_s: float) -> None:
        """Cancel all, and let them clean up."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=wait_s)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            logger.exception("a move failed", extra={"session": self._session})
            self._on_failure(f"{type(error).__name__}: {error}")
