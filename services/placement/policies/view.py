"""What a policy of placement sees, and what it answers. Everything is frozen and can be recorded and
replayed.

Times are seconds on one steady clock. A policy is asked after events and at ticks; what it answers is
checked again when it is carried out, and it sees the outcome in the next view.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec


class Worker(msgspec.Struct, frozen=True):
    """`capacity`: the most active sessions that keep the latency target there. `slots`: the most that fit
    at all. `latency_s[n]`: predicted latency of a chunk with n active sessions, for n from 0 to `slots`.
    `group`: sessions can only be on workers of their own. `price_per_s`: of the worker, in any unit.
    """

    worker: str
    kind: str
    state: Literal["ready", "draining", "starting", "silent"]
    capacity: int
    slots: int
    latency_s: tuple[float, ...]
    price_per_s: float = 1.0
    group: str = ""
    node: str = ""
    since_s: float = 0.0


class Session(msgspec.Struct, frozen=True):
    """`worker`: who has it, "" for none. `home`: who had it last and may still hold its state. `since_s`:
    since when it is active, or idle. `move_cost_s`: the pause that a move would cost it. `weight`: what it
    takes of a worker, 1.0 for a session at the rung that `latency_s` and `capacity` were measured at;
    `floor_weight`: what it would take one step down, `full_weight` stepped up again; both equal `weight` if
    it can't be. `avoid`: workers on which it just failed, to be taken only if no other has room.
    `away_cost_s`: the pause that being placed elsewhere than `home` costs it. `beat_s`: when one of its
    chunks falls due, the others at every `chunk_s` before and after, as long as its viewer keeps up. Of a
    waiting one: when it will have played what it has. None: not known, or nothing left to play.
    """

    session: str
    active: bool
    since_s: float
    worker: str = ""
    home: str = ""
    move_cost_s: float = 0.0
    tenant: str = ""
    priority: int = 0
    group: str = ""
    weight: float = 1.0
    floor_weight: float = 1.0
    full_weight: float = 1.0
    avoid: tuple[str, ...] = ()
    away_cost_s: float = 0.0
    beat_s: float | None = None


class View(msgspec.Struct, frozen=True):
    """`sessions`: the active ones, and idle ones that a worker still has. `freed_per_s`: places that became
    free per second lately, 0: not known. `spell_s`: how long active spells last on average, as learned.
    `chunk_s`: how long a chunk plays. `start_s`: from being placed to a session's first step.
    """

    now_s: float
    workers: tuple[Worker, ...]
    sessions: tuple[Session, ...]
    chunk_s: float = 1.0
    freed_per_s: float = 0.0
    spell_s: float = 15.0
    start_s: float = 0.0


class Place(msgspec.Struct, frozen=True, tag="place"):
    """An active session without a worker gets one."""

    session: str
    worker: str
    reason: str


class Move(msgspec.Struct, frozen=True, tag="move"):
    """An active session goes from one worker to another, with its state."""

    session: str
    source: str
    target: str
    reason: str


class Suspend(msgspec.Struct, frozen=True, tag="suspend"):
    """An idle session's state leaves its worker's device."""

    session: str
    worker: str
    reason: str


class Refuse(msgspec.Struct, frozen=True, tag="refuse"):
    """A session is not taken; its user may come back after so long."""

    session: str
    retry_after_s: float
    reason: str


class StepDown(msgspec.Struct, frozen=True, tag="step_down"):
    """A session goes on at the lowest rung its operator allows, so that others find room."""

    session: str
    reason: str


class StepUp(msgspec.Struct, frozen=True, tag="step_up"):
    """A session is served at the rung it asked for again."""

    session: str
    reason: str


Act = Place | Move | Suspend | Refuse | StepDown | StepUp


class Waiting(msgspec.Struct, frozen=True):
    """A queued session. `position` from 0; `expected_wait_s` None: not known."""

    session: str
    position: int
    expected_wait_s: float | None = None


class Memory(msgspec.Struct, frozen=True):
    """What a policy keeps between two decisions. `turn`: who is next, where they take turns. `uneven_s`:
    since when the worst latency is above the least possible one, None: it isn't. `roomy_s`: since when all
    that are stepped down could be served in full.
    """

    turn: int = 0
    uneven_s: float | None = None
    roomy_s: float | None = None


class Decision(msgspec.Struct, frozen=True):
    """`acts`: to be carried out in this order. `rho_max`: the highest ratio of load to capacity once they
    are.
    """

    acts: tuple[Act, ...]
    waiting: tuple[Waiting, ...]
    rho_max: float
    memory: Memory


class Policy(Protocol):
    """Its fields are its settings."""

    def decide(self, view: View, memory: Memory) -> Decision:
        """A function of its arguments, and of nothing else."""
        ...
