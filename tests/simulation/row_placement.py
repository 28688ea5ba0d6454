"""Placement's own deciding files in the place of `move_world.Placement`: rows, and what they are made of."""

from __future__ import annotations

from typing import Any

import msgspec

from services.placement import hand_over, homes, notice
from services.placement.facts import (
    ClosedByUser,
    CopyFailed,
    Event,
    HandedOver,
    MoveProposed,
    OwnerLost,
    PausedByUser,
    ResumedByUser,
    Steered,
)
from services.placement.fleet_view import FleetView
from services.placement.hand_over import CallOff, Commit, HandBack, Ongoing, Over
from services.placement.lifecycle import Step, TellDrop, step
from services.placement.notice import Asked
from shared.contracts.fleet import CopyReport
from shared.contracts.moves import Move
from shared.contracts.session import Input
from shared.store.rows import SessionRow
from tests.simulation.move_world import (
    SILENT_S,
    Abort,
    Accepted,
    Drop,
    Freed,
    Held,
    Order,
    Own,
    Report,
    Reserve,
    World,
)
from tests.simulation.placing import placings
from tests.unit.placement.examples import make_report, make_row

ROOM = 9


class RowPlacement:
    """One session. What its tests set (`inputs`, `paused`, `closed`) is what a user asks for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.row = make_row("active", id="s", epoch=1, revision=1, next_chunk=0)
        self.going: Ongoing | None = None
        self.ordered = False
        self.told = 0
        self.heard_at: dict[str, float] = {}
        self.fleet = FleetView(SILENT_S, world.now)

    def restart(self) -> None:
        """Its process is started anew: rows are all it has."""
        self.going, self.told = None, 0
        self.fleet = FleetView(SILENT_S, self.world.now)

    # What the tests ask and set.

    @property
    def owner(self) -> str:
        return self.row.worker

    @property
    def epoch(self) -> int:
        return self.row.epoch

    @property
    def move(self) -> Move | None:
        return self.going.move if self.going is not None else None

    @property
    def inputs(self) -> int:
        return self.row.inputs_version

    @inputs.setter
    def inputs(self, version: int) -> None:
        self.happen(Steered([Input("prompt", f"{version}")], []))

    @property
    def paused(self) -> bool:
        return self.row.status == "paused"

    @paused.setter
    def paused(self, paused: bool) -> None:
        self.happen(PausedByUser() if paused else ResumedByUser(owner_has_room=True))

    @property
    def closed(self) -> bool:
        return self.row.ended

    def close(self) -> None:
        self.happen(ClosedByUser())

    def propose(self, target: str) -> None:
        before = self.row
        self.happen(MoveProposed(before.epoch))
        if self.row is before or not self.row.worker:
            return
        row = self.row
        move = Move(f"m-{row.given_epoch}", "s", row.worker, target, row.epoch, row.given_epoch)
        self.going, self.ordered = Ongoing(move, "i-1", self.world.now), False
        self.world.send(target, Reserve(move))

    def resume_at(self, target: str) -> None:
        """A paused session is to go on there, with its state; it is queued until that has arrived."""
        before, home = self.row, self.row.worker
        held = self.fleet.copy(home, "s")
        if not self.paused or self.going is not None or not home or not homes.can_give(before, held):
            return
        self.happen(ResumedByUser(owner_has_room=False))
        self.happen(MoveProposed(before.epoch))
        row = self.row
        move = Move(f"m-{row.given_epoch}", "s", home, target, row.epoch, row.given_epoch)
        self.going, self.ordered = Ongoing(move, "i-1", self.world.now, home="i-1"), False
        self.world.send(target, Reserve(move))

    # Its service.

    def happen(self, event: Event) -> None:
        outcome = step(self.row, event, self.world.now)
        if not isinstance(outcome, Step) or outcome.row is self.row:
            return
        if isinstance(event, (OwnerLost, CopyFailed)):
            self.world.deaths += 1
        self.row, self.told = outcome.row, 0
        for command in outcome.commands:
            if isinstance(command, TellDrop):
                self.world.send(command.worker, Drop(command.epoch))
            else:
                self.own()

    def own(self) -> None:
        row, going = self.row, self.going
        arrived_by = going.move.move_id if going is not None and going.committed(row) else ""
        self.told += 1
        self.world.send(row.worker, Own(row.epoch, row.inputs_version, self.paused, arrived_by))

    def hear(self, message: Any) -> None:
        going = self.going
        match message:
            case Report():
                self.hear_report(message)
            case Accepted(move_id) if going and going.move.move_id == move_id and not self.ordered:
                self.ordered = True
                self.world.send(going.move.source, Order(going.move))
            case Freed(move_id) if going and going.move.move_id == move_id:
                going.free("freed")
                self.follow()

    def hear_report(self, report: Report) -> None:
        copies = [] if report.copy is None else [self.copy_report(report.copy)]
        if not self.fleet.report(make_report(report.worker, report.sequence, *copies), self.world.now):
            return
        for copy in copies if not self.row.ended else ():
            found = hand_over.of_stray(self.row, report.worker, "i-1", copy, self.move)
            if isinstance(found, CallOff):
                self.world.send(report.worker, Abort(copy.move_id))
            elif found is not None:
                self.happen(found)
        self.follow()

    def copy_report(self, held: Held) -> CopyReport:
        """Workers of this world know no revisions: theirs is the row's if they are as it says."""
        row = self.row
        agrees = (held.epoch, held.inputs, held.paused) == (row.epoch, row.inputs_version, self.paused)
        state = "superseded" if held.superseded else "paused" if held.paused else "running"
        revision = row.revision if agrees else row.revision - 1
        return CopyReport(
            "s",
            "default",
            held.epoch,
            revision,
            state,
            held.next_chunk,
            held.granted,
            move_id=held.unproven,
            committed=held.committed,
        )

    def follow(self) -> None:
        while self.going is not None:
            now, move = self.world.now, self.going.move
            match hand_over.decide(self.going, self.row, self.fleet, now, now):
                case Commit():
                    self.happen(HandedOver(move.target, "i-1", move.target_epoch))
                case HandBack(why):
                    self.happen(hand_over.hand_back(self.row, move, self.fleet, now, why))
                case CallOff() | Over() as over:
                    if over != Over("moved"):
                        for worker in (move.source, move.target):
                            self.world.send(worker, Abort(move.move_id))
                    self.going = None
                case None:
                    return

    def round(self) -> None:
        now = self.world.now
        self.fleet.observe(now)
        self.follow()
        self.repeat()
        event = notice.of_owner(self.row, self.fleet, now, now, Asked(self.told, ()))
        if isinstance(event, OwnerLost) and self.going is not None and self.going.committed(self.row):
            self.world.deaths += 1
            event = hand_over.hand_back(self.row, self.going.move, self.fleet, now, event.why)
        if event is not None:
            self.happen(event)
        self.place()
        self.clean_up()

    def repeat(self) -> None:
        going = self.going
        move_id = going.move.move_id if going is not None and going.committed(self.row) else ""
        if notice.must_repeat(self.row, self.fleet, move_id):
            self.own()

    def place(self) -> None:
        """Whoever has the state of a session that is to go on may not be heard: it begins anew."""
        if self.going is not None and self.going.home:
            return
        held = self.fleet.holders("s", self.world.now).values()
        self.world.deaths += self.row.status == "queued" and all(c.epoch < self.row.epoch for c in held)
        alive = [state.report for state in self.fleet.alive(self.world.now)]
        reports = [msgspec.structs.replace(report, capacity=ROOM, slots=ROOM) for report in alive]
        for _, placed in placings([self.row], reports, self.fleet, self.world.now):
            self.happen(placed)

    def clean_up(self) -> None:
        row: SessionRow | None = None if self.row.ended else self.row
        for worker, copy in self.fleet.copies(self.world.now):
            others = self.fleet.holders("s", self.world.now)
            drop = notice.unneeded(row, worker, copy, others, moving=self.going is not None)
            if drop is not None:
                self.world.send(worker, Drop(drop.epoch, drop.unless_past))
