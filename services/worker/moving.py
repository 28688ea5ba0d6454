"""One session's move from worker to worker, as each of the two sees it.

The order of things: placement names a target and an epoch for it; the target reserves a slot and accepts;
the source copies what it can while the session goes on (at most `MAX_ROUNDS` times, for what changed
meanwhile must be sent again), freezes at a chunk boundary n, promises n and sends the rest; the target starts
chunk n as soon as it has both. Nobody waits for anybody's permission in between: **the chunk log
arbitrates**. If chunk n is appended by the target, the session has moved, whatever else was said; if by the
source, it has stayed.

So every lateness has the same answer, on both sides: give up. The source goes on from its own copy, which it
keeps until the log holds a chunk of the target's; the target frees what it reserved. Facts about other moves
(`move_id`) are the caller's to drop. `now` is the caller's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

MAX_ROUNDS = 2
REST = 0  # the stage after the freeze; pre-copies are stages 1 and up


@dataclass(frozen=True, slots=True)
class Move:
    """`epoch`: the source's, which the move ends; `target_epoch`: a higher one that nothing else ever gets,
    also if the move is given up.
    """

    move_id: str
    session: str
    source: str
    target: str
    epoch: int
    target_epoch: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each side waits. `copy_s`: all pre-copies, boundary included. `frozen_s`: from the freeze to
    the target's first chunk in the log. `reserved_s`: from the reservation until the state is complete, so
    at least `copy_s + frozen_s`. `proving_s`: from then to the first chunk, or to placement's word.
    `rest_bytes`: that much is sent in the pause rather than in another round.
    """

    copy_s: float = 5.0
    frozen_s: float = 1.0
    reserved_s: float = 7.0
    proving_s: float = 1.0
    rest_bytes: int = 0


class PartVersion(NamedTuple):
    """`version` changes whenever the part's bytes do."""

    version: int
    bytes: int


Parts = Mapping[str, PartVersion]


# Facts.


class Boundary(NamedTuple):
    """Source: no chunk is under way, all before `next_chunk` are in the log. `parts`: the whole state."""

    next_chunk: int
    parts: Parts


class Sent(NamedTuple):
    """Source: the target has this stage."""

    stage: int


class Complete(NamedTuple):
    """Target: the rest has arrived, with all before it, and its checksums agree."""


class Promised(NamedTuple):
    """Target: the source froze before chunk `boundary`."""

    boundary: int


class FirstAppend(NamedTuple):
    """Target: its first chunk is in the log, or (`won` False) another with its index was there before."""

    won: bool


class Logged(NamedTuple):
    """Source: the log's newest chunk, by another worker."""

    epoch: int


class Told(NamedTuple):
    """Placement said that this worker owns the session, with this epoch."""

    epoch: int


class Dropped(NamedTuple):
    """Placement said to forget copies of up to this epoch: moved, closed, or placed elsewhere.

    A session without a chunk to make (paused, unwatched) proves nothing to the log. Its source may be told
    this once the target has said that it is `committed`, and must refuse if it went on past the boundary
    meanwhile.
    """

    epoch: int


class Failed(NamedTuple):
    """The link broke, the other side refused, bytes were wrong, placement called it off."""

    why: str


class Tick(NamedTuple):
    """Time has passed."""


SourceFact = Boundary | Sent | Logged | Told | Dropped | Failed | Tick
TargetFact = Complete | Promised | FirstAppend | Told | Dropped | Failed | Tick


# Decisions.


class Send(NamedTuple):
    """Source: these parts, in this order, as they are now. Pre-copies: only those that can't change while
    they are read; whatever else the caller leaves out, it leaves out of `parts`.
    """

    stage: int
    names: tuple[str, ...]


class Freeze(NamedTuple):
    """Source: begin no chunk; tell the target `Promised(boundary)`. Steering is not answered until the thaw:
    placement repeats it to whoever owns the session then.
    """

    boundary: int


class GoOn(NamedTuple):
    """Source: abort the transfer, begin chunks again, tell placement that the session stays and why."""

    why: str


class Start(NamedTuple):
    """Target: make the copy and chunk `next_chunk`, with this epoch; tell placement that the state came."""

    next_chunk: int
    epoch: int


class Own(NamedTuple):
    """Target: tell placement that the session is here, whatever it may have decided meanwhile."""

    epoch: int


class Free(NamedTuple):
    """Target: abort the transfer, free slot and copy, and tell placement why. Never begin the session anew
    from here: the source may have it.
    """

    why: str


class Forget(NamedTuple):
    """Drop the copy: the session is elsewhere, or over."""


SourceDecision = Send | Freeze | GoOn | Forget
TargetDecision = Start | Own | Free | Forget


# The source.


@dataclass(frozen=True, slots=True)
class Source:
    """`phase`: "copying" (a round is under way), "closing" (waits for a boundary), "frozen" (from the freeze
    to the log's answer), "stayed", "gone". `has`: what was sent, by version. `frozen_at`: 0 until then.
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
    """The target has accepted. `parts`: those that can be read while the session goes on."""
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
    match fact:
        case Sent(stage) if source.phase == "copying" and stage == source.rounds:
            return replace(source, phase="closing"), []
        case Boundary() if source.phase == "closing":
            return _close_in(source, fact, now)
    return source, []


def _close_in(source: Source, boundary: Boundary, now: float) -> tuple[Source, list[SourceDecision]]:
    """Another round, or the freeze."""
    changed = {name: p for name, p in boundary.parts.items() if source.has.get(name) != p.version}
    has = {**source.has, **_versions(changed)}
    if source.rounds < MAX_ROUNDS and sum(p.bytes for p in changed.values()) > source.patience.rest_bytes:
        stage = source.rounds + 1
        return replace(source, phase="copying", rounds=stage, has=has), [Send(stage, tuple(changed))]
    frozen = replace(source, phase="frozen", has=has, frozen_at=now)
    return frozen, [Freeze(boundary.next_chunk), Send(REST, tuple(changed))]


def _stay(source: Source, why: str) -> tuple[Source, list[SourceDecision]]:
    return replace(source, phase="stayed"), [GoOn(why)]


def _versions(parts: Parts) -> dict[str, int]:
    return {name: part.version for name, part in parts.items()}


# The target.


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
        case FirstAppend(won=False):
            return _free(target, "the source went on")
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
