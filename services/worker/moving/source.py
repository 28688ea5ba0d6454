"""The worker whose session leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from services.worker.moving.decisions import Forget, Freeze, GoOn, Send, SourceDecision
from services.worker.moving.facts import Boundary, Dropped, Failed, Logged, Sent, SourceFact, Told
from services.worker.moving.patience import MAX_ROUNDS, REST, Parts, PartVersion, Patience
from shared.contracts.moves import Move


@dataclass(frozen=True, slots=True)
class Source:
    """`phase`: "copying" (a round is under way), "closing" (waits for a boundary between two steps),
    "frozen" (from the freeze to the log's answer), "stayed", "gone". `has`: what was sent, by version.
    `frozen_at`: 0 until then.
    """

    move: Move
    patience: Patience
    began_at: float
    phase: Literal["copying", "closing", "frozen", "stayed", "gone"] = "copying"
    rounds: int = 1
    has: Mapping[str, int] = field(default_factory=dict)
    frozen_at: float = 0.0

    @property
    def over(self) -> bool:
        return self.phase in ("stayed", "gone")

    @property
    def wake_at(self) -> float | None:
        """When a `Tick` would change something."""
        if self.over:
            return None
        if self.phase == "frozen":
            return self.frozen_at + self.patience.frozen_s
        return self.began_at + self.patience.copy_s


def begin(move: Move, parts: Parts, patience: Patience, now: float) -> tuple[Source, list[SourceDecision]]:
    """The target has accepted. `parts`: those that are worth reading while the session goes on."""
    source = Source(move, patience, now, has=_versions(parts))
    return source, [Send(1, tuple(parts))]


def source_step(source: Source, fact: SourceFact, now: float) -> tuple[Source, list[SourceDecision]]:
    if source.over:
        return source, []
    match fact:
        case Dropped(epoch) if epoch >= source.move.epoch:
            return replace(source, phase="gone"), [Forget()]
        case Logged(epoch) if epoch > source.move.epoch:
            return replace(source, phase="gone"), [Forget()]
        case Told(epoch) if epoch > source.move.epoch:
            return _stay(source, "placement gave the session back")
        case Failed(why):
            return _stay(source, why)
    if source.wake_at is not None and now >= source.wake_at:
        return _stay(source, "too late")
    return _go_on(source, fact, now)


def _go_on(source: Source, fact: SourceFact, now: float) -> tuple[Source, list[SourceDecision]]:
    match fact:
        case Sent(stage) if source.phase == "copying" and stage == source.rounds:
            return replace(source, phase="closing"), []
        case Boundary(next_chunk, parts) if source.phase == "closing":
            return _close_in(source, next_chunk, parts, now)
    return source, []


def _close_in(
    source: Source, next_chunk: int, parts: Parts, now: float
) -> tuple[Source, list[SourceDecision]]:
    """Another round, or the freeze."""
    changed = _changed(source, parts)
    has = {**source.has, **_versions(changed)}
    if source.rounds < MAX_ROUNDS and sum(p.bytes for p in changed.values()) > source.patience.rest_bytes:
        stage = source.rounds + 1
        return replace(source, phase="copying", rounds=stage, has=has), [Send(stage, tuple(changed))]
    frozen = replace(source, phase="frozen", has=has, frozen_at=now)
    return frozen, [Freeze(next_chunk), Send(REST, tuple(changed))]


def _changed(source: Source, parts: Parts) -> dict[str, PartVersion]:
    return {name: part for name, part in parts.items() if source.has.get(name) != part.version}


def _stay(source: Source, why: str) -> tuple[Source, list[SourceDecision]]:
    return replace(source, phase="stayed"), [GoOn(why)]


def _versions(parts: Parts) -> dict[str, int]:
    return {name: part.version for name, part in parts.items()}
