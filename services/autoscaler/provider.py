"""What the autoscaler asks of a place where workers can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from services.autoscaler.plan import Member


class Exit:
    """How a worker ended. `expected`: it was told to. `detail`: what is known of the cause, in words."""

    __slots__ = ("detail", "exit_code", "expected", "worker")

    def __init__(self, worker: str, exit_code: int | None, expected: bool, detail: str) -> None:
        self.worker = worker
        self.exit_code = exit_code
        self.expected = expected
        self.detail = detail


OnExit = Callable[[Exit], None]


class Provider(Protocol):
    """Starts and ends workers, and tells at once when one has ended."""

    def members(self) -> tuple[Member, ...]:
        """The workers whose processes have not ended."""
        ...

    async def start(self) -> str:
        """Start one more worker and return its id. Raises OSError if it can't be started."""
        ...

    def release(self, worker: str) -> None:
        """It was told to go by itself: its end will be expected."""
        ...

    async def stop(self, workers: Sequence[str]) -> None:
        """End these, all at once, the hard way if they don't within the provider's deadline."""
        ...

    async def kill(self, worker: str) -> None:
        """End one that hangs; counts as unexpected."""
        ...
