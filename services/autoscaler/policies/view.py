"""What a policy of the fleet sees, and what it answers. Everything is frozen and can be recorded and
replayed.

Times are seconds on one steady clock. The order is: place on the fleet there is, read `rho_max`, then
decide here.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec


class Worker(msgspec.Struct, frozen=True):
    """`since_s`: since when it is in its state. `ready_at_s`: when one that boots is expected to be ready.
    `kept`: started by somebody else; it serves, but is not ours to give back.
    """

    worker: str
    kind: str
    state: Literal["booting", "ready", "draining"]
    since_s: float
    node: str = ""
    ready_at_s: float = 0.0
    kept: bool = False


class Kind(msgspec.Struct, frozen=True):
    """A kind of worker that can be had. `capacity`: active sessions that keep the latency target on one.
    `boot_s`: from the order to readiness, as measured so far. `latency_s[n]`: of a chunk, with n sessions.
    """

    kind: str
    capacity: int
    latency_s: tuple[float, ...]
    price_per_s: float = 1.0
    boot_s: float = 0.0


class Counts(msgspec.Struct, frozen=True):
    """All since the start. `arrived_active` are among `arrived`, `departed_active` among `departed`."""

    arrived: int = 0
    arrived_active: int = 0
    activated: int = 0
    idled: int = 0
    departed: int = 0
    departed_active: int = 0


class View(msgspec.Struct, frozen=True):
    """`loads`: active sessions on each of `workers`. `active`: all active sessions, `queued` of them
    without a worker; `idle`: the others. `rho_max`: the highest ratio of load to capacity after placement.
    `node_size`: how many workers can only be had and given back together. `spare`: warm workers to keep
    beside those needed. `frozen`: an operator wants the size to stay.
    """

    now_s: float
    workers: tuple[Worker, ...]
    loads: tuple[int, ...]
    kinds: tuple[Kind, ...]
    active: int
    queued: int
    idle: int
    counts: Counts
    rho_max: float
    minimum: int
    maximum: int
    node_size: int = 1
    spare: int = 0
    frozen: bool = False


class Change(msgspec.Struct, frozen=True):
    """`start`: how many of which kind. The others name workers; `release` only ones that are empty."""

    start: dict[str, int] = {}
    undrain: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    release: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.start or self.undrain or self.drain or self.release)


class Decision(msgspec.Struct, frozen=True):
    """`desired`: workers there should be, those that boot among them, those that drain not. `memory`: to be
    given to the next call. `ask_again_s`: decide anew after this long even if nothing happens.
    """

    desired: int
    change: Change
    reason: str
    memory: Any
    ask_again_s: float = 1.0


class Policy(Protocol):
    """Its fields are its settings."""

    def decide(self, view: View, memory: Any) -> Decision:
        """A function of its arguments, and of nothing else. `memory` None: the first decision."""
        ...
