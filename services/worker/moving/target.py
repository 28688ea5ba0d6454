"""The worker to which a session comes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from services.worker.moving.decisions import Forget, Free, Own, Start, TargetDecision
from services.worker.moving.facts import (
    Complete,
    Dropped,
    Failed,
    FirstAppend,
    Promised,
    TargetFact,
    Told,
)
from services.worker.moving.patience import Patience
from shared.contracts.moves import Move


@dataclass(frozen=True, slots=True)
class Target:
    """`phase`: "reserved", "proving" (it has started, the log has not answered), "owner", "freed".
    `epoch`: with which it generates. `committed`: placement has said that the session is here, so that it may
    take its time: a paused session's first chunk can be hours away.
    """

    move: Move
    patience: Patience
    since: float
    epoch: int
    phase: Literal["reserved", "proving", "owner", "freed"] = "reserved"
    boundary: int | None = None
    complete: bool = False
    committed: bool = False

    @property
    def over(self) -> bool:
        return self.phase in ("owner", "freed")

    @property
    def wake_at(self) -> float | None:
        """When a `Tick` would change something."""
        if self.phase == "reserved":
            return self.since + self.patience.reserved_s
        if self.phase == "proving" and not self.committed:
            return self.since + self.patience.proving_s
        return None


def reserve(move: Move, patience: Patience, now: float) -> Target:
    """A slot is free, the manifest was checked, and the worker doesn't hold the session: it accepts."""
    return Target(move, patience, now, move.target_epoch)


def target_step(target: Target, fact: TargetFact, now: float) -> tuple[Target, list[TargetDecision]]:
    if target.over:
        return target, []
    if isinstance(fact, Dropped):
        return _forget(target, fact.epoch)
    if target.phase == "proving":
        return _prove(target, fact, now)
    match fact:
        case Told(epoch) if epoch >= target.epoch:
            return _free(target, "placement gave the session here before its state was")
        case Failed(why):
            return _free(target, why)
    if target.wake_at is not None and now >= target.wake_at:
        return _free(target, "too late")
    match fact:
        case Complete():
            return _start(replace(target, complete=True), now)
        case Promised(boundary):
            return _start(replace(target, boundary=boundary), now)
    return target, []


def _start(target: Target, now: float) -> tuple[Target, list[TargetDecision]]:
    if not target.complete or target.boundary is None:
        return target, []
    return replace(target, phase="proving", since=now), [Start(target.boundary, target.epoch)]


def _prove(target: Target, fact: TargetFact, now: float) -> tuple[Target, list[TargetDecision]]:
    """It needs the source no more: a broken link says nothing."""
    match fact:
        case FirstAppend(won=True):
            return replace(target, phase="owner"), [Own(target.epoch)]
        case FirstAppend(won=False, why=why):
            return _free(target, why)
        case Told(epoch) if epoch >= target.epoch:
            return replace(target, epoch=epoch, committed=True), []
    if target.wake_at is not None and now >= target.wake_at:
        return _free(target, "too late")
    return target, []


def _forget(target: Target, epoch: int) -> tuple[Target, list[TargetDecision]]:
    if epoch < target.epoch:
        return target, []
    return replace(target, phase="freed"), [Forget()]


def _free(target: Target, why: str) -> tuple[Target, list[TargetDecision]]:
    return replace(target, phase="freed"), [Free(why)]
