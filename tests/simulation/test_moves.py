"""The move protocol with delays, loss, repeats, deaths, zombies, departures and prompt changes at any moment.

`Log.append` asserts that every chunk is the one an unmoved session would have made: no index twice or
missing, no jump of the picture, no older prompt after a newer one.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.worker.moving.facts import Failed, Sent
from services.worker.moving.patience import REST
from tests.simulation.move_world import PATIENCE, PLACEMENT, STEPS, WORKERS, Placement, Worker, World

A_WORKER = st.sampled_from(WORKERS)
MAX_NETWORK = 60


class Moves(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.world = World()
        self.workers = {name: Worker(name, self.world) for name in WORKERS}
        self.placement = Placement(self.world)
        for worker in WORKERS:
            self.placement.heard_at[worker] = 0.0
        self.placement.round()
        self.deliver_all()
        self.chunks(2)

    # The network.

    def deliver(self, to: str, message: Any) -> None:
        if to == PLACEMENT:
            self.placement.hear(message)
        elif self.workers[to].awake:
            self.workers[to].hear(message)

    def deliver_all(self) -> None:
        for _ in range(200):
            if not self.world.network:
                return
            self.deliver(*self.world.network.pop(0))
        raise AssertionError("messages without end")

    @precondition(lambda self: self.world.network)
    @rule(which=st.integers(0, 3), fate=st.sampled_from(["arrives", "arrives", "arrives", "twice", "lost"]))
    def message(self, which: int, fate: str) -> None:
        at = which % len(self.world.network)
        to, message = self.world.network[at]
        if fate != "twice":
            del self.world.network[at]
        if fate != "lost":
            self.deliver(to, message)

    @rule(steps=st.integers(1, 12), slow=st.sampled_from([None, None, *WORKERS]))
    def a_while_without_trouble(self, steps: int, slow: str | None) -> None:
        """So that trouble comes at every stage of a move, not only at its first ones. Worker `slow` takes
        twice as long for its steps.
        """
        for step in range(steps):
            if self.world.network:
                self.deliver(*self.world.network.pop(0))
            elif self.world.transfers:
                self.land()
            else:
                self.chunks(1, slow)
                if step % 2:
                    self.pass_time(0.02)

    @precondition(lambda self: self.world.transfers)
    @rule(breaks=st.sampled_from([False, False, False, True]))
    def transfer(self, breaks: bool) -> None:
        self.land(breaks)

    def land(self, breaks: bool = False) -> None:
        transfer = self.world.transfers.pop(0)
        source = self.workers[transfer.source]
        if transfer.stage > REST and source.copy is not None:
            read_late = {name: source.copy.state.parts[name] for name in transfer.parts}
            transfer = transfer._replace(parts=read_late)
        arrived = not breaks and source.alive and self.workers[transfer.target].receive(transfer)
        if source.awake and source.source is not None and source.source.move.move_id == transfer.move_id:
            source.tell_source(Sent(transfer.stage) if arrived else Failed("the link broke"))

    # Placement, users.

    @precondition(lambda self: not self.placement.closed and self.placement.move is None)
    @rule(other=st.integers(0, 1))
    def propose(self, other: int) -> None:
        self.placement.propose([name for name in WORKERS if name != self.placement.owner][other])

    @rule(what=st.sampled_from(["steer", "steer", "pause", "resume"]))
    def user(self, what: str) -> None:
        if what == "steer":
            self.placement.inputs += 1
        else:
            self.placement.paused = what == "pause"
        self.placement.round()

    @rule(watched=st.booleans(), heard_by=A_WORKER)
    def viewers(self, watched: bool, heard_by: str) -> None:
        """Others hear it later."""
        self.world.watched = watched
        self.workers[heard_by].hear_viewers()

    @precondition(lambda self: self.placement.move is not None)
    @rule(really=st.integers(0, 9))
    def departure(self, really: int) -> None:
        """Rarely: it ends the story."""
        if really < 9:
            return
        self.placement.closed, self.placement.move = True, None
        self.placement.round()

    # Workers.

    def chunks(self, count: int, slow: str | None = None) -> None:
        for _ in range(count):
            for worker in self.workers.values():
                if worker.awake:
                    worker.hear_viewers()
                    worker.begin_chunk()
                    worker.step_chunk()
                    if worker.name != slow:
                        worker.step_chunk()
                        worker.decode_chunk()
                    worker.append_all()

    @rule(worker=A_WORKER, part=st.sampled_from(["begin", "step", "decode", "append", "all"]))
    def chunk(self, worker: str, part: str) -> None:
        one = self.workers[worker]
        if one.awake:
            if part in {"begin", "all"}:
                one.begin_chunk()
            for _ in range({"step": 1, "all": STEPS}.get(part, 0)):
                one.step_chunk()
            if part in {"decode", "all"}:
                one.decode_chunk()
            if part in {"append", "all"}:
                one.append_all()

    @rule(passed_s=st.sampled_from([0.05, 0.05, 0.4, 1.2]), unheard=st.sampled_from([None, None, *WORKERS]))
    def time(self, passed_s: float, unheard: str | None) -> None:
        self.pass_time(passed_s, unheard)

    def pass_time(self, passed_s: float, unheard: str | None = None) -> None:
        self.world.now += passed_s
        for worker in self.workers.values():
            if worker.awake:
                worker.hear_viewers()
                worker.tick()
                if worker.name != unheard:
                    self.placement.hear(worker.report())
        if len(self.world.network) < MAX_NETWORK:
            self.placement.round()

    @rule(
        worker=A_WORKER,
        how=st.sampled_from(["killed", "started anew", "stopped", "goes on", "goes on", "goes on"]),
    )
    def fate(self, worker: str, how: str) -> None:
        one = self.workers[worker]
        if how == "killed":
            one.alive = False
            self.world.deaths += 1
        elif how == "started anew":
            one.restart()
            self.world.deaths += 1
        else:
            one.stopped = how == "stopped"

    # What must hold.

    @invariant()
    def nobody_waits_longer_than_agreed(self) -> None:
        for worker in self.workers.values() if hasattr(self, "workers") else ():
            if not worker.awake or worker.ticked_at < self.world.now:
                continue
            if worker.copy is not None and worker.copy.frozen:
                assert worker.source is not None
                assert worker.source.phase == "frozen"
                assert self.world.now < worker.source.frozen_at + PATIENCE.frozen_s
            if worker.target is not None and worker.target.phase == "reserved":
                assert self.world.now < worker.target.since + PATIENCE.reserved_s

    @invariant()
    def without_a_death_the_picture_never_begins_anew(self) -> None:
        if hasattr(self, "world") and not self.world.deaths:
            assert not any(entry.anew for entry in self.world.log.entries[1:])

    @invariant()
    def without_a_death_a_copy_is_always_held(self) -> None:
        if hasattr(self, "world") and not self.world.deaths and not self.placement.closed:
            assert any(worker.copy is not None for worker in self.workers.values())

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for worker in self.workers.values():
            worker.stopped = False
        self.world.watched = False
        for _ in range(20):
            self.calm()
        self.what_makes_no_chunk_is_held_once()
        self.placement.paused, self.world.watched = False, True
        if not any(worker.alive for worker in self.workers.values()):
            return
        for _ in range(40):
            self.calm()
        made = len(self.world.log.entries)
        self.chunks(2)
        self.everything_has_come_to_an_end(made)

    def calm(self) -> None:
        while self.world.transfers:
            self.land()
        self.deliver_all()
        self.world.now += 0.5
        for worker in self.workers.values():
            if worker.alive:
                worker.tick()
                self.placement.hear(worker.report())
        self.placement.round()
        self.deliver_all()
        self.chunks(1)

    def what_makes_no_chunk_is_held_once(self) -> None:
        holders = [worker.name for worker in self.workers.values() if worker.alive and worker.copy]
        if self.placement.owner in holders and not self.placement.closed:
            assert holders == [self.placement.owner]

    def everything_has_come_to_an_end(self, made: int) -> None:
        live = [worker for worker in self.workers.values() if worker.alive]
        for worker in live:
            assert worker.source is None or worker.source.over
            assert worker.target is None or worker.target.over
        holders = [worker.name for worker in live if worker.copy is not None]
        if self.placement.closed:
            assert holders == []
            return
        assert holders == [self.placement.owner]
        last = self.world.log.last
        assert last is not None
        assert len(self.world.log.entries) > made
        assert (last.worker, last.epoch, last.inputs) == (
            self.placement.owner,
            self.placement.epoch,
            self.placement.inputs,
        )


TestMoves = Moves.TestCase
pytest.mark.timeout(300)(TestMoves)  # a failure takes a while to become the shortest one
TestMoves.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_a_session_leaves_in_the_midst_of_a_chunk_which_its_target_ends() -> None:
    story = Moves()
    story.start()
    source, target = story.workers["w-1"], story.workers["w-2"]
    story.placement.propose("w-2")
    story.deliver_all()
    story.land()
    source.hear_viewers()
    source.begin_chunk()
    source.step_chunk()
    story.deliver_all()
    story.land()
    assert target.copy is not None
    assert (target.copy.next_chunk, target.copy.steps_left) == (2, STEPS - 1)
    source.step_chunk()
    source.decode_chunk()
    source.append_all()
    assert len(story.world.log.entries) == 2
    target.step_chunk()
    target.decode_chunk()
    target.append_all()
    assert [entry.worker for entry in story.world.log.entries] == ["w-1"] * 2 + ["w-2"]


def test_a_source_whose_target_never_proves_itself_ends_the_chunk_that_it_began() -> None:
    story = Moves()
    story.start()
    source = story.workers["w-1"]
    story.placement.propose("w-2")
    story.deliver_all()
    story.land()
    source.hear_viewers()
    source.begin_chunk()
    source.step_chunk()
    story.deliver_all()
    story.workers["w-2"].alive = False
    story.pass_time(PATIENCE.frozen_s)
    source.step_chunk()
    source.decode_chunk()
    source.append_all()
    assert [entry.chunk for entry in story.world.log.entries] == [0, 1, 2]
