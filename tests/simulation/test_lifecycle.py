"""Placement's deciding files against workers, a chunk log and a network that loses, repeats and delays.

Rows survive everything; what placement knows of the fleet is lost when it restarts, a worker's copies when it
does. Whatever happened, once it stops happening every session must be where its user wants it.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from services.placement import notice
from services.placement.facts import ClosedByUser, Event, PausedByUser, ResumedByUser, Steered
from services.placement.fleet_view import FleetView
from services.placement.lifecycle import Step, TellDrop, TellOwn, opened, step
from services.placement.notice import Asked
from services.placement.room import Room, room_of
from shared.contracts.fleet import CopyReport, Drop, LoadReport, Own
from shared.contracts.session import Input
from shared.store.rows import SessionRow
from tests.simulation.placing import placings
from tests.unit.placement.examples import make_report, make_row

SILENT_S = 3.0
CAPACITY = 2
MAX_SESSIONS = 6
WORKERS = ("w-1", "w-2")
COMMANDS = ("pause", "resume", "steer", "close")
LOST, LATE, TWICE, ON_TIME = "lost", "late", "twice", "on time"


class SimCopy:
    def __init__(self, own: Own, next_chunk: int) -> None:
        self.own = own
        self.next_chunk = next_chunk
        self.state = "running"

    def report(self) -> CopyReport:
        own = self.own
        state = "paused" if own.paused and self.state == "running" else self.state
        return CopyReport(own.session, own.tenant, own.epoch, own.revision, state, self.next_chunk, -1)


class SimWorker:
    """Does as the contracts say: newest (epoch, revision) wins, and the chunk log decides what is next."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.copies: dict[str, SimCopy] = {}
        self.starts = 1
        self.sequence = 0
        self.alive = True

    def restart(self) -> None:
        self.copies, self.alive = {}, True
        self.starts += 1

    def hear(self, message: Own | Drop, log: Log) -> None:
        if not self.alive:
            return
        held = self.copies.get(message.session)
        if isinstance(message, Drop):
            if held is not None and held.own.epoch <= message.epoch:
                del self.copies[message.session]
            return
        if held is None or (held.state != "running" and message.epoch > held.own.epoch):
            self.copies[message.session] = SimCopy(message, log.next(message.session))
        elif (message.epoch, message.revision) > (held.own.epoch, held.own.revision):
            held.own = message

    def report(self) -> LoadReport:
        self.sequence += 1
        copies = [copy.report() for copy in self.copies.values()]
        return make_report(
            self.name,
            self.sequence,
            *copies,
            incarnation=f"i-{self.starts}",
            capacity=CAPACITY,
            started_at=float(self.starts),
        )

    def generate(self, session: str, log: Log) -> None:
        copy = self.copies.get(session)
        if not self.alive or copy is None or copy.own.paused or copy.state != "running":
            return
        if log.append(session, copy.next_chunk, copy.own.epoch):
            copy.next_chunk += 1
        elif log.newest_epoch(session) > copy.own.epoch:
            copy.state = "superseded"
        else:
            copy.next_chunk = log.next(session)


class Log:
    """Append n only after n - 1."""

    def __init__(self) -> None:
        self.epochs: dict[str, list[int]] = {}

    def next(self, session: str) -> int:
        return len(self.epochs.get(session, []))

    def newest_epoch(self, session: str) -> int:
        return max(self.epochs.get(session, [0]), default=0)

    def append(self, session: str, index: int, epoch: int) -> bool:
        if index != self.next(session):
            return False
        self.epochs.setdefault(session, []).append(epoch)
        return True


class Protocol(RuleBasedStateMachine):
    sessions = Bundle("sessions")
    late = Bundle("late")

    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.log = Log()
        self.workers = {name: SimWorker(name) for name in WORKERS}
        self.rows: dict[str, SessionRow] = {}
        self.told: dict[str, int] = {}
        self.said: list[LoadReport] = []
        self.fleet = FleetView(SILENT_S, self.now)

    # Placement, as its service does it.

    def happen(self, session: str, event: Event) -> list[tuple[str, Own | Drop]]:
        before = self.rows[session]
        outcome = step(before, event, self.now)
        if not isinstance(outcome, Step):
            assert before.ended
            return []
        if outcome.row is not before:
            self.told[session] = 0
        self.rows[session] = outcome.row
        return [self.message(outcome.row, command) for command in outcome.commands]

    def message(self, row: SessionRow, command: TellOwn | TellDrop) -> tuple[str, Own | Drop]:
        if isinstance(command, TellDrop):
            return command.worker, Drop(row.id, command.epoch)
        self.told[row.id] += 1
        return command.worker, make_own(row)

    def round(self) -> list[tuple[str, Own | Drop]]:
        self.fleet.observe(self.now)
        messages = [
            self.message(row, TellOwn(row.worker))
            for row in self.rows.values()
            if not row.ended and notice.must_repeat(row, self.fleet)
        ]
        for row in list(self.rows.values()):
            asked = Asked(self.told[row.id], ())
            event = None if row.ended else notice.of_owner(row, self.fleet, self.now, self.now, asked)
            messages += self.happen(row.id, event) if event else []
        return messages + self.place() + self.drops()

    def drops(self) -> list[tuple[str, Own | Drop]]:
        rows = {session: None if row.ended else row for session, row in self.rows.items()}
        found: list[tuple[str, Own | Drop]] = []
        for worker, copy in self.fleet.copies(self.now):
            others = self.fleet.holders(copy.session, self.now)
            drop = notice.unneeded(rows[copy.session], worker, copy, others, moving=False)
            found += [(worker, drop)] if drop is not None else []
        return found

    def place(self) -> list[tuple[str, Own | Drop]]:
        reports = [state.report for state in self.fleet.alive(self.now)]
        placed = placings(self.rows.values(), reports, self.fleet, self.now)
        return [m for session, event in placed for m in self.happen(session, event)]

    def rooms(self) -> list[Room]:
        return [
            room_of(state.report, self.active_on(state.report.worker)) for state in self.fleet.alive(self.now)
        ]

    def active_on(self, worker: str) -> int:
        return sum(row.status == "active" and row.worker == worker for row in self.rows.values())

    # The network.

    def send(self, messages: list[tuple[str, Own | Drop]], fate: str) -> Any:
        """What is late goes into the bundle, to come whenever it comes."""
        if fate in (TWICE, ON_TIME):
            for worker, message in messages:
                self.workers[worker].hear(message, self.log)
        return multiple(*(messages if fate in (TWICE, LATE) else ()))

    FATES = st.sampled_from([ON_TIME, ON_TIME, LATE, TWICE, LOST])

    @rule(message=consumes(late))
    def arrive(self, message: tuple[str, Own | Drop]) -> None:
        self.workers[message[0]].hear(message[1], self.log)

    # Users.

    @precondition(lambda self: len(self.rows) < MAX_SESSIONS)
    @rule(target=sessions)
    def open(self) -> str:
        row = make_row(
            "queued", id=f"s-{len(self.rows)}", created_at=self.now, epoch=0, revision=1, next_chunk=0
        )
        self.rows[row.id], self.told[row.id] = opened(row).row, 0
        return row.id

    @rule(
        target=late, session=sessions, fate=FATES, command=st.sampled_from("pause resume steer close".split())
    )
    def command(self, session: str, command: str, fate: str) -> Any:
        row = self.rows[session]
        room = any(
            room.free and (room.worker, room.incarnation) == (row.worker, row.incarnation)
            for room in self.rooms()
        )
        events: dict[str, Event] = {
            "pause": PausedByUser(),
            "resume": ResumedByUser(owner_has_room=room),
            "steer": Steered([Input("prompt", "a blue ball")], []),
            "close": ClosedByUser(),
        }
        return self.send(self.happen(session, events[command]), fate)

    # Time, and what dies.

    @rule(
        target=late,
        passed_s=st.sampled_from([0.1, 0.5, 1.5]),
        unheard=st.sampled_from([(), (), ("w-1",), WORKERS]),
        fate=FATES,
    )
    def beat(self, passed_s: float, unheard: tuple[str, ...], fate: str) -> Any:
        """Workers report, unless nobody hears them, and placement acts on it."""
        self.now += passed_s
        for worker in self.workers.values():
            if worker.alive and worker.name not in unheard:
                self.said.append(worker.report())
                self.fleet.report(self.said[-1], self.now)
        return self.send(self.round(), fate)

    @precondition(lambda self: self.said)
    @rule(ago=st.integers(0, 5))
    def an_old_report_comes_again(self, ago: int) -> None:
        self.fleet.report(self.said[-1 - ago % len(self.said)], self.now)

    @rule(worker=st.sampled_from(WORKERS), session=sessions)
    def generate(self, worker: str, session: str) -> None:
        self.workers[worker].generate(session, self.log)

    @rule(worker=st.sampled_from(WORKERS), how=st.sampled_from(["dies", "starts anew"]))
    def crash(self, worker: str, how: str) -> None:
        self.workers[worker].alive = False
        if how == "starts anew":
            self.workers[worker].restart()

    @rule(worker=st.sampled_from(WORKERS), session=sessions)
    def copy_fails(self, worker: str, session: str) -> None:
        if session in self.workers[worker].copies:
            self.workers[worker].copies[session].state = "failed"

    @rule()
    def placement_restarts(self) -> None:
        self.fleet = FleetView(SILENT_S, self.now)
        self.told = dict.fromkeys(self.told, 0)

    # What must hold.

    @invariant()
    def no_worker_is_given_more_than_it_can(self) -> None:
        if self.rows:
            assert all(self.active_on(worker) <= CAPACITY for worker in WORKERS)

    @invariant()
    def the_picture_never_goes_back_to_an_earlier_owner(self) -> None:
        for epochs in self.log.epochs.values() if self.rows else ():
            assert epochs == sorted(epochs)

    def teardown(self) -> None:
        if not self.rows:
            return
        for worker in self.workers.values():
            if not worker.alive:
                worker.restart()
        for _ in range(30):
            self.now += 0.5
            for worker in self.workers.values():
                self.fleet.report(worker.report(), self.now)
            self.send(self.round(), ON_TIME)
        self.everything_is_as_it_should_be()

    def everything_is_as_it_should_be(self) -> None:
        live = {row.id: row for row in self.rows.values() if not row.ended}
        waiting = [row for row in live.values() if row.status == "queued"]
        assert not waiting or not any(room.free for room in self.rooms())
        for row in live.values():
            if row.status == "active":
                copy = self.workers[row.worker].copies[row.id]
                assert (copy.own.epoch, copy.own.revision) == (row.epoch, row.revision)
                assert copy.own.inputs == row.inputs
                assert not copy.own.paused
                made = self.log.next(row.id)
                self.workers[row.worker].generate(row.id, self.log)
                self.workers[row.worker].generate(row.id, self.log)
                assert self.log.next(row.id) > made
        for worker in self.workers.values():
            for session, copy in worker.copies.items():
                assert session in live
                assert copy.own.paused or live[session].worker == worker.name


def make_own(row: SessionRow) -> Own:
    return Own(
        session=row.id,
        tenant=row.tenant,
        epoch=row.epoch,
        revision=row.revision,
        model=row.model,
        seed=row.seed,
        inputs=row.inputs,
        inputs_version=row.inputs_version,
        deadline_at=0.0,
        paused=row.status == "paused",
    )


TestProtocol = Protocol.TestCase
pytest.mark.timeout(300)(TestProtocol)  # a failure takes a while to become the shortest one
TestProtocol.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
