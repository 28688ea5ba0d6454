"""Workers, placement, a network and a chunk log around `services.worker.moving`: one session that moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.worker.moving.decisions import Forget, Free, Freeze, GoOn, Send, Start
from services.worker.moving.facts import (
    Boundary,
    Complete,
    Dropped,
    Failed,
    FirstAppend,
    Logged,
    Promised,
    Tick,
    Told,
)
from services.worker.moving.patience import REST, PartVersion, Patience
from services.worker.moving.source import Source, begin, source_step
from services.worker.moving.target import Target, reserve, target_step
from shared.contracts.moves import Move

WORKERS = ("w-1", "w-2", "w-3")
RING = ("a", "b", "c")
PARTS = (*RING, "decoder", "present")
STEPS = 2
SILENT_S, MOVE_S = 3.0, 8.0
PATIENCE = Patience(copy_s=4.0, frozen_s=1.0, reserved_s=6.0, proving_s=1.0, rest_bytes=2)
PLACEMENT = "placement"
MOST_PENDING = 2
CREDIT_WINDOW = 2


class State(NamedTuple):
    """Each part's (version, value). Every step writes the ring's part of its chunk before it reads it, and
    the first one of a chunk with another prompt all others; the decoder changes when a chunk is decoded.
    """

    parts: dict[str, tuple[int, int]]
    shown: int

    def advanced(self, index: int, inputs: int) -> State:
        state = self
        for left in reversed(range(STEPS)):
            state = state.stepped(index, inputs, left)
        return state.decoded()

    def stepped(self, index: int, inputs: int, left: int) -> State:
        """`left`: so many steps come after this one."""
        own = void(index)
        state = self if inputs == self.shown else self._recached(own, inputs)
        seen = tuple(state.parts[name][1] for name in RING if name != own)
        present = hash((seen, index, inputs, left, state.parts["present"][1] if left < STEPS - 1 else 0))
        return state._with({"present": present, own: hash((present, left))}, inputs)

    def _recached(self, own: str, inputs: int) -> State:
        seen = tuple(self.parts[name][1] for name in RING)
        return self._with({name: hash((seen, name, inputs)) for name in RING if name != own}, inputs)

    def decoded(self) -> State:
        told = hash((self.parts["decoder"][1], tuple(self.parts[name][1] for name in RING)))
        return self._with({"decoder": told}, self.shown)

    def _with(self, values: dict[str, int], shown: int) -> State:
        changed = {name: (self.parts[name][0] + 1, value) for name, value in values.items()}
        return State({**self.parts, **changed}, shown)


def void(index: int) -> str:
    """What the steps of a chunk write before they read it."""
    return RING[index % len(RING)]


def fresh(index: int) -> State:
    return State({name: (0, hash((name, index))) for name in PARTS}, 0)


class Entry(NamedTuple):
    chunk: int
    epoch: int
    worker: str
    inputs: int
    anew: bool
    state: State


class Log:
    """Append n only after n - 1; and what is appended is what an unmoved session would have made."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    @property
    def last(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    def append(self, entry: Entry) -> bool:
        if entry.chunk != len(self.entries):
            return False
        before = fresh(entry.chunk) if entry.anew or self.last is None else self.last.state
        values = {name: value for name, (_, value) in entry.state.parts.items()}
        expected = before.advanced(entry.chunk, entry.inputs).parts
        assert values == {name: value for name, (_, value) in expected.items()}, "the picture jumped"
        assert self.last is None or self.last.epoch <= entry.epoch, "an earlier owner came back"
        assert self.last is None or self.last.inputs <= entry.inputs, "an older prompt came back"
        self.entries.append(entry)
        return True


@dataclass
class Copy:
    """`under_way`: on the device, with `steps_left`. `pending`: made, on the way to the log."""

    epoch: int
    inputs: int
    next_chunk: int
    state: State
    paused: bool = False
    frozen: bool = False
    superseded: bool = False
    anew: bool = False
    arrived_by: str = ""
    came_at: float = 0.0
    under_way: Entry | None = None
    steps_left: int = 0
    pending: list[Entry] = field(default_factory=list)


class Own(NamedTuple):
    epoch: int
    inputs: int
    paused: bool
    arrived_by: str


class Drop(NamedTuple):
    """`at_most`: not if the copy went on past that chunk; None: whatever it made."""

    epoch: int
    at_most: int | None = None


class Reserve(NamedTuple):
    move: Move


class Order(NamedTuple):
    move: Move


class Abort(NamedTuple):
    move_id: str


class Promise(NamedTuple):
    move_id: str
    boundary: int
    inputs: int
    paused: bool
    shown: int
    anew: bool
    under_way: Entry | None
    steps_left: int


class Accepted(NamedTuple):
    move_id: str


class Freed(NamedTuple):
    move_id: str


class Held(NamedTuple):
    """`unproven`: the move it came by, until its first chunk is in the log."""

    epoch: int
    inputs: int
    paused: bool
    superseded: bool
    unproven: str
    committed: bool
    next_chunk: int
    granted: int

    @property
    def secure(self) -> bool:
        """It can't prove itself now: it may make no chunk."""
        return self.committed and (self.paused or self.next_chunk > self.granted + CREDIT_WINDOW)


class Report(NamedTuple):
    worker: str
    sequence: int
    copy: Held | None


class Transfer(NamedTuple):
    move_id: str
    source: str
    target: str
    stage: int
    parts: dict[str, tuple[int, int]]


@dataclass
class World:
    """`watched`: viewers are done with what is in the log. `granted`: the last chunk they were done with."""

    now: float = 0.0
    watched: bool = True
    granted: int = -1
    log: Log = field(default_factory=Log)
    network: list[tuple[str, Any]] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    deaths: int = 0

    def send(self, to: str, message: Any) -> None:
        self.network.append((to, message))

    def cut(self, move_id: str) -> None:
        self.transfers = [t for t in self.transfers if t.move_id != move_id]


class Worker:
    """As the worker service must drive the two machines."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.alive = True
        self.stopped = False
        self.sequence = 0
        self.ticked_at = 0.0
        self.restart()

    def restart(self) -> None:
        self.copy: Copy | None = None
        self.source: Source | None = None
        self.target: Target | None = None
        self.promise: Promise | None = None
        self.parts: dict[str, tuple[int, int]] = {}
        self.dropped_through = 0
        self.granted = -1
        self.alive, self.stopped = True, False

    @property
    def awake(self) -> bool:
        return self.alive and not self.stopped

    # What is said to it.

    def hear(self, message: Any) -> None:
        match message:
            case Own():
                self.hear_own(message)
            case Drop(epoch, at_most):
                self.hear_drop(epoch, at_most)
            case Reserve(move):
                self.hear_reserve(move)
            case Order(move):
                self.hear_order(move)
            case Abort(move_id):
                self.hear_abort(move_id)
            case Promise(move_id, boundary):
                if self.target is not None and self.target.move.move_id == move_id:
                    self.promise = message
                    self.tell_target(Promised(boundary))

    def hear_drop(self, epoch: int, at_most: int | None) -> None:
        if at_most is not None and self.copy is not None:
            self.append_all()
            copy = self.copy
            if not copy.superseded and (copy.next_chunk > at_most or copy.pending or copy.under_way):
                return
        self.dropped_through = max(self.dropped_through, epoch)
        self.tell_source(Dropped(epoch))
        self.tell_target(Dropped(epoch))
        if self.copy is not None and self.copy.epoch <= epoch:
            self.copy = None

    def hear_abort(self, move_id: str) -> None:
        if self.source is not None and self.source.move.move_id == move_id:
            self.tell_source(Failed("called off"))
        if self.target is not None and self.target.move.move_id == move_id:
            self.tell_target(Failed("called off"))

    def hear_own(self, own: Own) -> None:
        if own.epoch <= self.dropped_through:
            return
        self.tell_source(Told(own.epoch))
        self.tell_target(Told(own.epoch))
        copy = self.copy
        if copy is not None and not copy.superseded:
            if own.epoch > copy.epoch or (own.epoch == copy.epoch and not copy.frozen):
                copy.epoch, copy.paused = own.epoch, own.paused
                copy.inputs = max(copy.inputs, own.inputs)
        elif own.arrived_by:
            self.world.send(PLACEMENT, Freed(own.arrived_by))
        elif copy is None or own.epoch > copy.epoch:
            self.copy = self.open_anew(own)

    def open_anew(self, own: Own) -> Copy:
        """Never under the log's newest epoch: its chunks would come after its successor's."""
        last, index = self.world.log.last, len(self.world.log.entries)
        superseded = last is not None and last.epoch > own.epoch
        inputs = max(own.inputs, last.inputs if last is not None else 0)
        return Copy(own.epoch, inputs, index, fresh(index), own.paused, superseded=superseded, anew=True)

    def hear_reserve(self, move: Move) -> None:
        busy = self.target is not None and not self.target.over
        if self.copy is None and not busy and move.target_epoch > self.dropped_through:
            self.target, self.promise, self.parts = reserve(move, PATIENCE, self.world.now), None, {}
            self.world.send(PLACEMENT, Accepted(move.move_id))
        elif self.target is None or self.target.move.move_id != move.move_id:
            self.world.send(PLACEMENT, Freed(move.move_id))

    def hear_order(self, move: Move) -> None:
        moving = self.source is not None and (
            not self.source.over or self.source.move.move_id == move.move_id
        )
        copy = self.copy
        if copy is None or copy.superseded or copy.epoch != move.epoch or moving:
            return
        if copy.arrived_by and not (self.target is not None and self.target.committed):
            return
        self.source, decisions = begin(move, self.versions(), PATIENCE, self.world.now)
        self.carry_out_source(decisions)

    def versions(self) -> dict[str, PartVersion]:
        assert self.copy is not None
        under_way = self.copy.under_way
        unread = void(under_way.chunk) if under_way is not None else ""
        parts = self.copy.state.parts.items()
        return {name: PartVersion(version, 1) for name, (version, _) in parts if name != unread}

    # The machines, and what they decide.

    def tell_source(self, fact: Any) -> None:
        if self.source is not None:
            self.source, decisions = source_step(self.source, fact, self.world.now)
            self.carry_out_source(decisions)

    def carry_out_source(self, decisions: list[Any]) -> None:
        assert self.source is not None
        move = self.source.move
        for decision in decisions:
            match decision:
                case Send(stage, names):
                    assert self.copy is not None
                    sent = {name: self.copy.state.parts[name] for name in names}
                    self.world.transfers.append(Transfer(move.move_id, self.name, move.target, stage, sent))
                case Freeze(boundary):
                    assert self.copy is not None
                    self.copy.frozen = True
                    self.world.send(move.target, self.promised(move.move_id, boundary, self.copy))
                case GoOn():
                    if self.copy is not None:
                        self.copy.frozen = False
                    self.world.cut(move.move_id)
                case Forget():
                    self.copy = None
                    if self.target is not None and self.target.phase == "proving":
                        self.tell_target(Dropped(self.target.epoch))

    def promised(self, move_id: str, boundary: int, copy: Copy) -> Promise:
        told = (copy.inputs, copy.paused, copy.state.shown, copy.anew)
        return Promise(move_id, boundary, *told, copy.under_way, copy.steps_left)

    def tell_target(self, fact: Any) -> None:
        if self.target is None:
            return
        self.target, decisions = target_step(self.target, fact, self.world.now)
        for decision in decisions:
            match decision:
                case Start(next_chunk, epoch):
                    assert self.copy is None
                    self.copy = self.arrived(next_chunk, epoch)
                    self.copy.arrived_by = self.target.move.move_id
                case Free() | Forget():
                    self.world.cut(self.target.move.move_id)
                    if self.copy is not None and self.copy.arrived_by == self.target.move.move_id:
                        self.copy = None
                    self.world.send(PLACEMENT, Freed(self.target.move.move_id))

    def arrived(self, next_chunk: int, epoch: int) -> Copy:
        """What never came, or came and means nothing, is anything."""
        promise = self.promise
        assert promise is not None
        parts = {**dict.fromkeys(PARTS, (0, -1)), **self.parts}
        if promise.under_way is not None:
            parts[void(next_chunk)] = (0, -2)
        state = State(parts, promise.shown)
        copy = Copy(epoch, promise.inputs, next_chunk, state, promise.paused, anew=promise.anew)
        if promise.under_way is not None:
            copy.under_way = promise.under_way._replace(worker=self.name)
            copy.steps_left = promise.steps_left
        copy.came_at = self.world.now
        return copy

    def receive(self, transfer: Transfer) -> bool:
        """Whether somebody was there to take it."""
        target = self.target
        if not self.awake or target is None or target.move.move_id != transfer.move_id:
            return False
        if target.phase == "reserved":
            self.parts = {**self.parts, **transfer.parts}
            if transfer.stage == REST:
                self.tell_target(Complete())
        return True

    # Its own doing.

    def tick(self) -> None:
        self.ticked_at = self.world.now
        self.tell_source(Tick())
        self.tell_target(Tick())
        last = self.world.log.last
        if last is not None and last.worker != self.name:
            self.tell_source(Logged(last.epoch))
        self.give_up_waiting()
        self.boundary()

    def give_up_waiting(self) -> None:
        """A chunk before the boundary never came: its source died with it."""
        copy = self.copy
        if copy is None or not copy.arrived_by or self.world.now < copy.came_at + PATIENCE.proving_s:
            return
        first = copy.pending[0].chunk if copy.pending else copy.next_chunk
        if len(self.world.log.entries) < first:
            self.tell_target(FirstAppend(False, "a chunk is missing"))

    def boundary(self) -> None:
        copy = self.copy
        between = copy is not None and (copy.under_way is None or 0 < copy.steps_left < STEPS)
        if copy is not None and between and not copy.superseded:
            self.tell_source(Boundary(copy.next_chunk, self.versions()))

    def hear_viewers(self) -> None:
        if self.world.watched:
            self.world.granted = max(self.world.granted, len(self.world.log.entries) - 1)
        self.granted = self.world.granted

    def begin_chunk(self) -> None:
        copy = self.copy
        if copy is None or copy.paused or copy.frozen or copy.superseded or copy.under_way is not None:
            return
        if copy.next_chunk > self.granted + CREDIT_WINDOW:
            return
        if len(copy.pending) < MOST_PENDING:
            copy.under_way = Entry(copy.next_chunk, copy.epoch, self.name, copy.inputs, copy.anew, copy.state)
            copy.steps_left = STEPS

    def step_chunk(self) -> None:
        copy = self.copy
        if copy is None or copy.frozen or copy.under_way is None or not copy.steps_left:
            return
        copy.steps_left -= 1
        copy.state = copy.state.stepped(copy.under_way.chunk, copy.under_way.inputs, copy.steps_left)
        if copy.steps_left:
            self.boundary()

    def decode_chunk(self) -> None:
        copy = self.copy
        if copy is None or copy.under_way is None or copy.steps_left:
            return
        began, copy.under_way = copy.under_way, None
        copy.state = copy.state.decoded()
        copy.next_chunk, copy.anew = began.chunk + 1, False
        copy.pending.append(began._replace(state=copy.state))
        self.boundary()

    def append_all(self) -> None:
        while self.copy is not None and self.copy.pending and self.append_chunk():
            pass

    def append_chunk(self) -> bool:
        """Whether the oldest chunk made is in the log now."""
        copy = self.copy
        if copy is None or not copy.pending or copy.superseded:
            return False
        made = copy.pending[0]
        if copy.arrived_by and made.chunk > len(self.world.log.entries):
            return False
        won = self.world.log.append(made._replace(epoch=copy.epoch))
        if won:
            copy.pending.pop(0)
        if copy.arrived_by:
            if won:
                copy.arrived_by = ""
            self.tell_target(FirstAppend(won))
        elif not won:
            self.lose(copy)
        return won

    def lose(self, copy: Copy) -> None:
        last = self.world.log.last
        assert last is not None
        if last.epoch > copy.epoch or (last.epoch == copy.epoch and last.worker != self.name):
            copy.superseded = True
            self.tell_source(Logged(last.epoch))
        else:
            index = len(self.world.log.entries)
            copy.next_chunk, copy.state, copy.anew = index, fresh(index), True
            copy.pending, copy.under_way, copy.steps_left = [], None, 0
            self.tell_source(Failed("the copy began anew"))
            copy.inputs = max(copy.inputs, last.inputs)

    def report(self) -> Report:
        self.sequence += 1
        copy = self.copy
        if copy is None:
            return Report(self.name, self.sequence, None)
        committed = self.target is not None and self.target.committed
        held = Held(
            copy.epoch,
            copy.inputs,
            copy.paused,
            copy.superseded,
            copy.arrived_by,
            committed,
            copy.next_chunk - len(copy.pending),
            self.granted,
        )
        return Report(self.name, self.sequence, held)


@dataclass
class Placement:
    """As placement must drive a move. `former`: who owned the session before, and may still have its copy."""

    world: World
    owner: str = WORKERS[0]
    epoch: int = 1
    given: int = 1
    inputs: int = 1
    paused: bool = False
    closed: bool = False
    move: Move | None = None
    ordered: bool = False
    committed: bool = False
    since: float = 0.0
    former: str = ""
    moves: int = 0
    superseded_at: float | None = None
    heard_at: dict[str, float] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)

    def propose(self, target: str) -> None:
        self.moves, self.given = self.moves + 1, self.given + 1
        move = Move(f"m-{self.moves}", "s", self.owner, target, self.epoch, self.given)
        self.move, self.ordered, self.committed, self.since = move, False, False, self.world.now
        self.world.send(target, Reserve(move))

    def hear(self, message: Any) -> None:
        move = self.move
        match message:
            case Report(worker, sequence):
                self.heard_at[worker] = self.world.now
                known = self.reports.get(worker)
                if known is None or known.sequence < sequence:
                    self.reports[worker] = message
                    self.follow(message)
            case Accepted(move_id) if move and move.move_id == move_id and not self.ordered:
                self.ordered = True
                self.world.send(move.source, Order(move))
            case Freed(move_id) if move and move.move_id == move_id:
                self.hand_back() if self.committed else self.call_off()

    def follow(self, report: Report) -> None:
        """The copies say how far the move has come; a chunk in the log is stronger than what was decided."""
        if report.copy is None or self.closed:
            return
        epoch, superseded, arrived_by = report.copy.epoch, report.copy.superseded, report.copy.unproven
        move = self.move
        if move and arrived_by == move.move_id and not self.committed and report.worker == move.target:
            self.own(move.target, move.target_epoch, former=move.source)
            self.committed = True
        elif epoch > self.epoch and not arrived_by and not superseded:
            self.own(report.worker, epoch, former=self.owner)
            self.move = None
        elif arrived_by and not (move and arrived_by == move.move_id) and report.worker != self.owner:
            self.world.send(report.worker, Abort(arrived_by))

    def own(self, worker: str, epoch: int, former: str = "") -> None:
        self.owner, self.epoch, self.former = worker, epoch, former
        self.given = max(self.given, epoch)

    def call_off(self) -> None:
        if self.move is not None:
            for worker in (self.move.source, self.move.target):
                self.world.send(worker, Abort(self.move.move_id))
        self.move, self.committed = None, False

    def hand_back(self) -> None:
        """The target of a committed move has nothing to go on with."""
        former = self.former if self.has_copy(self.former) and self.is_alive(self.former) else ""
        self.own(former or self.owner, self.given + 1)
        self.move, self.committed = None, False

    def has_copy(self, worker: str) -> bool:
        report = self.reports.get(worker)
        return report is not None and report.copy is not None and not report.copy.superseded

    def is_alive(self, worker: str) -> bool:
        return self.world.now - self.heard_at.get(worker, 0.0) < SILENT_S

    def round(self) -> None:
        if self.closed:
            for worker in WORKERS:
                self.world.send(worker, Drop(self.given))
            return
        if self.move and not self.committed and self.world.now - self.since > MOVE_S:
            self.call_off()
        if not self.is_alive(self.owner) or self.lost_to_nobody():
            self.recover()
        self.repeat()
        self.clean_up()

    def lost_to_nobody(self) -> bool:
        """The owner says that another took over, of which nothing was heard for as long as of the dead."""
        report = self.reports.get(self.owner)
        held = report.copy if report is not None else None
        if held is None or not held.superseded or held.epoch != self.epoch:
            self.superseded_at = None
        elif self.superseded_at is None:
            self.superseded_at = self.world.now
        return self.superseded_at is not None and self.world.now - self.superseded_at > SILENT_S

    def recover(self) -> None:
        alive = [worker for worker in WORKERS if self.is_alive(worker)]
        if alive:
            self.world.deaths += 1
            if not self.committed:
                self.call_off()
            self.move, self.committed = None, False
            self.own(max(alive, key=self.has_copy), self.given + 1)

    def repeat(self) -> None:
        report = self.reports.get(self.owner)
        held = report.copy if report is not None else None
        unsettled = held is None or held.superseded or bool(held.unproven and not held.committed)
        if held is None or unsettled or held[:3] != (self.epoch, self.inputs, self.paused):
            arrived_by = self.move.move_id if self.move and self.committed else ""
            self.world.send(self.owner, Own(self.epoch, self.inputs, self.paused, arrived_by))
        elif self.committed and not held.unproven:
            self.move, self.committed = None, False

    def clean_up(self) -> None:
        """Copies that are not the owner's go once the owner's has proved itself, or can't for now."""
        report = self.reports.get(self.owner)
        held = report.copy if report is not None else None
        if held is None or held.epoch != self.epoch or held.superseded:
            return
        if held.unproven and not held.secure:
            return
        at_most = held.next_chunk if held.unproven else None
        for worker in WORKERS:
            copy = self.reports[worker].copy if worker in self.reports else None
            if worker != self.owner and copy is not None and copy.epoch < self.epoch:
                self.world.send(worker, Drop(copy.epoch, at_most))
