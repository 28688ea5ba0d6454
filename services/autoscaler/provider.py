"""What the autoscaler asks of a place where workers can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from shared.contracts.fleet import WorkerExited


class Member(msgspec.Struct, frozen=True):
    """A worker as its provider knows it. `stopping`: it was told to go, whether it has gone or not.
    `started_at`: when it was ordered, on the steady clock. `node`: what it can only be had and given back
    together with; "": it stands alone. `runs_since`: when its process was started, on that clock (0: when it
    was ordered; None: it waits for a machine, and the provider sees to it that this ends). `detail`: what it
    waits for, in words.
    """

    worker: str
    state: Literal["alive", "stopping"]
    started_at: float
    node: str = ""
    runs_since: float | None = 0.0
    detail: str = ""


class Exit:
    """How a worker ended. `expected`: it was told to. `detail`: what is known of the cause, in words.
    `incarnation`: as `WorkerExited` has it.
    """

    __slots__ = ("detail", "exit_code", "expected", "incarnation", "worker")

    def __init__(
        self, worker: str, exit_code: int | None, expected: bool, detail: str, incarnation: str = ""
    ) -> None:
        self.worker = worker
        self.exit_code = exit_code
        self.expected = expected
        self.detail = detail
        self.incarnation = incarnation

    @property
    def told(self) -> WorkerExited:
        return WorkerExited(self.worker, self.exit_code, self.incarnation)


OnExit = Callable[[Exit], None]


class Provider(Protocol):
    """Starts and ends workers, and tells at once when one has ended. Only the leader of a cell has one.

    Every call has a deadline of the caller's, and may be cancelled by it: what came of it then, `members`
    tells.
    """

    @property
    def node_size(self) -> int:
        """How many workers are started, and paid for, together."""
        ...

    async def open(self) -> None:
        """Learn which workers run already. Raises OSError."""
        ...

    async def close(self) -> None:
        """The autoscaler ends, or leads no longer: end the workers that can't be without it."""
        ...

    def members(self) -> tuple[Member, ...]:
        """The workers that have not ended."""
        ...

    async def start(self) -> Sequence[str]:
        """Start one more node and return the ids of its workers. Raises OSError if it can't be started."""
        ...

    def release(self, worker: str) -> None:
        """It was told to go by itself: its end will be expected."""
        ...

    async def stop(self, workers: Sequence[str]) -> None:
        """End these, all at once, the hard way if they don't within the provider's deadline. Raises
        OSError.
        """
        ...

    async def kill(self, worker: str) -> None:
        """End one that hangs; counts as unexpected. Raises OSError."""
        ...
