"""The engine with a roster, without a bus: what leaves the device and comes back goes on as if it had
stayed.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from queue import Queue
from typing import Any

import msgspec
import numpy as np
import pytest

from services.worker import encoding, runner
from services.worker.copies import Copy
from services.worker.curve import Curve
from services.worker.encode import EncodeSettings
from services.worker.encoding import EncoderHangs
from services.worker.engine import Engine
from services.worker.making import Made, Making
from services.worker.mover import readings
from services.worker.mover.readings import Reading
from services.worker.offload import HostPool
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.shelf import Shelf
from services.worker.states import States
from services.worker.tiers import Tiers
from shared.contracts.moves import HandOver
from tests.fixtures.worker_wire import new_own, next_own, steered
from tests.unit.worker.late import LookedAtPool, SlotModel

WAIT_S = 30.0
FAR = 1000


class Bench:
    """An engine on its thread, with a log that takes everything."""

    def __init__(self, model: Runner, hot: int, host: int, pool: HostPool | None = None) -> None:
        self.roster = Roster(1.0, lambda: None)
        self.pool = pool or HostPool(host, model.spec.state_bytes, "cpu")
        self.states = States(Shelf(Tiers(model, self.pool, hot)))
        curves = {"": Curve("all", ((1, 1.0), (2, 1.5)))}
        self.engine = Engine(model, self.states, self.roster, EncodeSettings(), self._deliver, curves)
        self.made: dict[str, list[bytes]] = {}
        self.most_hot = 0

    def _deliver(self, made: Made) -> None:
        self.made.setdefault(made.order.copy.session, []).append(made.media.data)
        self.most_hot = max(self.most_hot, self.states.tiers._taken)
        self.roster.appended(made.order)

    def open(self, chunks: int, prompt: str = "a red ball", **changes: object) -> Copy:
        """A copy with credit for so many chunks."""
        copy = self.roster.add(new_own(prompt, granted_through=chunks - 3, **changes))
        self.roster.locate(copy, 0)
        return copy

    def until(self, condition: Callable[[], bool]) -> None:
        """Looks now and then too: not everything is told to whoever waits for the roster."""
        deadline = time.monotonic() + WAIT_S
        with self.roster.changed:
            while not condition():
                assert time.monotonic() < deadline
                self.roster.changed.wait(0.02)

    def play(self, copy: Copy, chunks: int) -> None:
        self.roster.grant(copy, chunks - 3)
        self.until(lambda: copy.next_append == chunks)

    def look_again(self) -> None:
        """Until the engine has gone once around."""
        for _ in range(2):
            self.engine.errands.put(lambda: True).result(WAIT_S)

    def suspended(self) -> int:
        return sum(not kept.hot for kept in self.states.shelf.kept.values())


@contextmanager
def running(model: Runner, hot: int, host: int, pool: HostPool | None = None) -> Iterator[Bench]:
    bench = Bench(model, hot, host, pool)
    thread = threading.Thread(target=bench.engine.run)
    thread.start()
    try:
        yield bench
    finally:
        bench.engine.stop()
        bench.engine.abandon()
        thread.join(WAIT_S)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def sprites() -> Runner:
    return runner.load("services.worker.models", "sprites", "cpu", "")


@pytest.fixture
def tiny() -> Runner:
    return runner.load("tests.fixtures.tiny_model", "tiny", "cpu", "")


def test_suspended_and_resumed_is_uninterrupted_bit_for_bit(sprites: Runner) -> None:
    """With a prompt that changes while one of the two is away."""
    prompt = "a big green heart moving left over the sea"
    with running(sprites, hot=1, host=3) as bench:
        stayed = bench.open(0, prompt)
        bench.play(stayed, 3)
        bench.roster.apply(stayed, steered(stayed.own, "now white"))
        bench.play(stayed, 6)
        bench.roster.apply(stayed, next_own(stayed.own, paused=True))
        left = bench.open(0, prompt)
        bench.play(left, 3)
        bench.roster.apply(left, paused := next_own(left.own, paused=True))
        other = bench.open(0, "a red ball at night")
        bench.play(other, 1)
        assert bench.suspended() == 2
        bench.roster.apply(left, next_own(steered(paused, "now white"), paused=False))
        bench.play(left, 6)
        assert bench.made[left.session] == bench.made[stayed.session]
        assert bench.most_hot == 1


def test_copies_that_wait_are_told_beside_steps_and_while_nothing_is_to_do() -> None:
    """The device takes little at a time, and copies only when it is looked at."""
    model = Runner(SlotModel(1), "cpu")
    pool = LookedAtPool(3, model.spec.state_bytes)
    with running(model, hot=1, host=3, pool=pool) as bench:
        copies = [bench.open(FAR, max_chunks=5, seed=seed) for seed in range(2)]
        bench.until(lambda: all(copy.state == "finished" for copy in copies))
        copy = bench.open(0, seed=7)
        bench.play(copy, 3)
        bench.until(lambda: not pool.waiting)
        bench.look_again()
        kept = bench.states.shelf.kept[copy]
        assert kept.mirror is not None
        assert kept.state is not None
        assert (np.asarray(pool._memory[kept.mirror.slot]) == kept.state.memory).all()
    with running(Runner(SlotModel(3), "cpu"), hot=3, host=0) as bench:
        stayed = [bench.open(FAR, max_chunks=5, seed=seed) for seed in range(2)]
        bench.until(lambda: all(copy.state == "finished" for copy in stayed))
    assert all(copy.next_append == 5 for copy in (*copies, *stayed))


def test_running_sessions_beyond_the_hot_slots_take_turns(tiny: Runner) -> None:
    with running(tiny, hot=1, host=3) as bench:
        copies = [bench.open(FAR, max_chunks=5, seed=seed) for seed in range(3)]
        bench.until(lambda: all(copy.state == "finished" for copy in copies))
        assert bench.most_hot == 1
    with running(tiny, hot=3, host=0) as bench:
        stayed = [bench.open(FAR, max_chunks=5, seed=seed) for seed in range(3)]
        bench.until(lambda: all(copy.state == "finished" for copy in stayed))
        assert bench.pool.free_slots == 0
    assert all(copy.next_append == 5 for copy in stayed)


def test_host_slots_come_back_with_their_sessions(tiny: Runner) -> None:
    with running(tiny, hot=1, host=3) as bench:
        copies = [bench.open(2, seed=seed) for seed in range(3)]
        bench.until(lambda: all(copy.next_append == 2 for copy in copies))
        for copy in copies:
            bench.roster.remove(copy)
        last = bench.open(2)
        bench.until(lambda: last.next_append == 2)
        assert bench.suspended() == 0
        bench.roster.remove(last)
        bench.look_again()
        assert (bench.pool.free_slots, bench.states.tiers.free) == (3, 1)


def test_a_place_is_free_while_its_last_pictures_are_being_encoded() -> None:
    reached, go_on = threading.Event(), threading.Event()
    with running(Runner(SlotModel(1), "cpu"), hot=1, host=0) as bench:
        deliver = bench.engine.encoding.deliver

        def slowly(made: Made) -> None:
            reached.set()
            assert go_on.wait(WAIT_S)
            deliver(made)

        bench.engine.encoding.deliver = slowly
        first = bench.open(1)
        assert reached.wait(WAIT_S)
        bench.roster.remove(first)
        second = bench.open(1)
        bench.look_again()
        go_on.set()
        bench.until(lambda: bool(second.error) or second.next_append == 1)
        assert not second.error


class LateStep:
    """A step that the device is at until it is told to end."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def query(self) -> bool:
        return self.over.is_set()

    def synchronize(self) -> None:
        assert self.over.wait(WAIT_S)


def test_beside_a_step_errands_are_run_that_mind_none_in_their_turn(
    tiny: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, launch = LateStep(), tiny.launch
    with running(tiny, hot=2, host=0) as bench:
        bench.engine.stepper._step_s[1] = 10 * WAIT_S
        monkeypatch.setattr(tiny, "launch", lambda states: launch(states) or step)
        copy = bench.open(1)
        bench.until(lambda: copy.next_chunk == 1)
        told: list[str] = []
        bench.engine.errands.put(lambda: told.append("soon"), soon=True).result(WAIT_S)
        later = bench.engine.errands.put(lambda: told.append("between"))
        behind = bench.engine.errands.put(lambda: told.append("behind it"), soon=True)
        assert not step.query()
        assert (told, later.done(), behind.done()) == (["soon"], False, False)
        step.over.set()
        with bench.roster.changed:
            bench.roster.changed.notify_all()
        behind.result(WAIT_S)
        assert told == ["soon", "between", "behind it"]
        bench.until(lambda: copy.next_append == 1)


def test_an_engine_whose_encoder_hangs_ends_and_says_so(
    tiny: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ENCODE_LIMIT_S", 0.1)
    bench, go_on = Bench(tiny, hot=encoding.MAX_FRAMES_WAITING + 2, host=0), threading.Event()

    def hang(_: Made) -> None:
        go_on.wait(WAIT_S)

    bench.engine.encoding.deliver = hang
    for _ in range(encoding.MAX_FRAMES_WAITING + 2):
        bench.open(1)
    try:
        with ThreadPoolExecutor(1) as device, pytest.raises(EncoderHangs, match="no chunk was encoded for"):
            device.submit(bench.engine.run).result(WAIT_S)
        assert bench.engine.errands.put(lambda: True).cancelled()
    finally:
        go_on.set()


def freezing(bench: Bench, copy: Copy, step: int) -> "Queue[Reading]":
    """`copy` is frozen at that step from now on, and what its source reads then comes into the queue."""
    read: Queue[Reading] = Queue()
    launch, steps = bench.engine.runner.launch, count()

    def launched(states: list[Any]) -> Any:
        if next(steps) == step:
            bench.roster.transit.freeze(copy)
        return launch(states)

    bench.engine.runner.launch = launched  # type: ignore[method-assign]
    bench.states.shelf.held.add(copy)

    def at_boundary(copy: Copy, chunk: Making | None) -> None:
        read.put(readings.read(bench.states, copy, chunk))

    bench.engine.crossings.on_boundary = at_boundary
    return read


def arrive(bench: Bench, source: Bench, left: Copy, reading: Reading) -> Copy:
    """As a move's target does: its state lies here, but for what is void."""
    copy = bench.roster.add(left.own, arriving=True)
    told = (reading.counters, left.granted_through, 0, reading.under_way, list(reading.void))
    hand_over = HandOver(reading.next_chunk, left.own, left.inputs_from, reading.shown, *told)
    counters = msgspec.msgpack.decode(reading.counters)

    def adopt() -> None:
        memory, _ = bench.states.reserve(copy)
        memory[:] = 0xEE
        for start, end in (span for part in reading.parts.values() for span in part.spans):
            memory[start:end] = source.states.memory(left)[start:end]
        bench.roster.transit.land(copy, left.own, hand_over, "m-1")
        bench.engine.crossings.adopt(copy, counters, hand_over)

    bench.engine.errands.put(adopt, soon=True).result(WAIT_S)
    return copy


MODELS = {"tiny": ("tests.fixtures.tiny_model", "tiny"), "sprites": ("services.worker.models", "sprites")}


@pytest.mark.parametrize("model", list(MODELS))
def test_a_copy_leaves_between_two_steps_of_a_chunk_which_its_target_ends(
    model: str,
) -> None:
    here, there = (runner.load(*MODELS[model], "cpu", "") for _ in range(2))
    with running(here, hot=2, host=0) as source, running(there, hot=2, host=0) as target:
        left = source.open(2)
        source.until(lambda: left.next_append == 2)
        read = freezing(source, left, 0)
        source.roster.grant(left, 2)
        reading = read.get(timeout=WAIT_S)
        assert reading.under_way is not None
        assert (reading.next_chunk, reading.under_way.steps_left) == (2, reading.under_way.steps - 1)
        source.look_again()
        assert (left.next_chunk, left.next_append) == (3, 2)
        came = arrive(target, source, left, reading)
        target.look_again()
        assert (came.next_chunk, came.next_append) == (3, 2), "it isn't here before it has arrived"
        target.roster.transit.arrive(came)
        target.until(lambda: came.next_append == 5)
        source.roster.transit.thaw(left)
        source.until(lambda: left.next_append == 5)
        assert target.made[came.session] == source.made[left.session][2:], "a move given up changed nothing"


@pytest.mark.parametrize("frozen_at", [0, 1])
def test_what_came_is_copied_to_host_memory_and_goes_on_from_there(tiny: Runner, frozen_at: int) -> None:
    """`frozen_at`: 0: after the first step of a chunk, whose next step here comes first; 1: after its last
    one. Suspended then, it goes on as if it had stayed.
    """
    with running(tiny, hot=2, host=0) as source, running(tiny, hot=1, host=2) as target:
        left = source.open(2)
        source.until(lambda: left.next_append == 2)
        read = freezing(source, left, frozen_at)
        source.roster.grant(left, 0)
        came = arrive(target, source, left, read.get(timeout=WAIT_S))
        put, states = target.engine.errands.put, target.states
        assert states.shelf.kept[came].mirror is None

        def come() -> None:
            target.roster.transit.arrive(came)
            states.let_go(came)

        put(come, soon=True).result(WAIT_S)
        kept = states.shelf.kept[came]
        assert frozen_at == 0 or kept.mirror is not None
        target.until(lambda: kept.mirror is not None and bool(kept.mirror.versions))
        target.play(came, 4)
        assert put(lambda: states.stow(came, "host")).result(WAIT_S).tier == "host"
        target.play(came, 5)
        source.roster.transit.thaw(left)
        source.play(left, 5)
        assert target.made[came.session] == source.made[left.session][-len(target.made[came.session]) :]


class HeldStep:
    """One that the device is at until it is let go."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def query(self) -> bool:
        return self._over.is_set()

    def synchronize(self) -> None:
        assert self._over.wait(WAIT_S)

    def let_go(self) -> None:
        self._over.set()


def test_beside_another_ones_step_a_copy_leaves_at_once_and_arrives(tiny: Runner) -> None:
    """Whoever is in the step leaves after it."""
    with running(tiny, hot=3, host=0) as bench:
        one, two = bench.open(2), bench.open(2)
        bench.until(lambda: one.next_append == two.next_append == 2)
        read = freezing(bench, two, 0)
        bench.states.shelf.held.add(one)
        launch, step, at_it = bench.engine.runner.launch, HeldStep(), threading.Event()

        def launched(states: list[Any]) -> Any:
            launch(states)
            bench.engine.runner.before_step = step if len(states) == 1 else None
            if len(states) == 1:
                at_it.set()
            return step if len(states) == 1 else None

        bench.engine.runner.launch = launched  # type: ignore[method-assign]
        bench.engine.stepper._step_s[1] = WAIT_S
        with bench.roster.changed:
            bench.roster.grant(one, 0)
            bench.roster.grant(two, 0)
        first = read.get(timeout=WAIT_S)
        assert at_it.wait(WAIT_S)
        bench.roster.transit.freeze(one)
        bench.roster.transit.thaw(two)
        bench.roster.transit.freeze(two)
        again = read.get(timeout=WAIT_S)
        assert (again.under_way is not None, again.counters) == (True, first.counters)
        came = arrive(bench, bench, two, again)
        bench.roster.transit.arrive(came)
        bench.engine.errands.put(lambda: None, soon=True).result(WAIT_S)
        assert read.empty(), "the device is at a step of the other one"
        step.let_go()
        bench.roster.grant(one, 1)  # wakes who waits beside it
        assert read.get(timeout=WAIT_S).next_chunk == one.next_chunk
        bench.until(lambda: came.next_append == 3)


def test_a_copy_whose_pictures_are_shown_leaves_after_its_chunk(tiny: Runner) -> None:
    with running(tiny, hot=2, host=0) as bench:
        copy = bench.open(2)
        bench.until(lambda: copy.next_append == 2)
        read = freezing(bench, copy, tiny.spec.steps - 1)
        bench.roster.grant(copy, 2)
        reading = read.get(timeout=WAIT_S)
        assert (reading.next_chunk, reading.under_way, reading.void) == (3, None, ())
        bench.until(lambda: copy.next_append == 3)


def test_without_host_memory_a_displaced_picture_begins_anew(tiny: Runner) -> None:
    with running(tiny, hot=1, host=0) as bench:
        one, two = bench.open(2), bench.open(2)
        bench.until(lambda: one.next_append == two.next_append == 2)
        bench.play(one, 4)
        bench.play(two, 4)
        assert bench.most_hot == 1


def test_rows_of_one_step_that_fails_are_stepped_alone(tiny: Runner) -> None:
    with running(tiny, hot=2, host=0) as bench:
        good, bad = bench.open(2), bench.open(2, "explode")
        bench.until(lambda: bool(bad.ended))
        bench.until(lambda: good.next_append == 2)
        assert (bad.error, good.ended) == ("RuntimeError: the prompt said so", "")


def test_one_that_is_to_leave_is_not_stepped_alone_after_a_step_that_failed(tiny: Runner) -> None:
    """Its source reads it beside the step of the other one, which is made alone first."""
    with running(tiny, hot=2, host=0) as bench:
        copies = [bench.open(2), bench.open(2)]
        bench.until(lambda: all(copy.next_append == 2 for copy in copies))
        read, launch = freezing(bench, copies[0], -1), bench.engine.runner.launch
        left: list[Copy] = []

        def launched(states: list[Any]) -> Any:
            if len(states) == 2 and states[1].steps_left == 1:
                left.extend(c for c, chunk in bench.engine._chunks.items() if chunk.state is states[1])
                bench.roster.transit.freeze(left[0])
                raise RuntimeError("not together")
            told = launch(states)
            bench.engine.crossings.tell()
            return told

        bench.engine.runner.launch = launched  # type: ignore[method-assign]
        with bench.roster.changed:
            for copy in copies:
                bench.roster.grant(copy, 0)
        reading = read.get(timeout=WAIT_S)
        bench.until(lambda: sum(copy.next_append == 3 for copy in copies) == 1)
        bench.look_again()
        assert bench.states.mid_chunk(left[0]).counters == msgspec.msgpack.decode(reading.counters)
        bench.roster.transit.thaw(left[0])
        bench.until(lambda: all(copy.next_append == 3 for copy in copies))


def test_a_place_held_for_a_move_is_nobody_elses_until_it_is_let_go(tiny: Runner) -> None:
    with running(tiny, hot=1, host=2) as bench:
        one, two = bench.open(2), bench.open(0)
        bench.until(lambda: one.next_append == 2)
        assert bench.engine.errands.put(lambda: bench.states.hold(one)).result(WAIT_S)
        bench.roster.grant(two, 0)
        bench.play(one, 4)
        assert two.next_chunk == 0
        bench.engine.errands.put(lambda: bench.states.let_go(one)).result(WAIT_S)
        bench.look_again()
        bench.until(lambda: two.next_append == 3)


def test_a_picture_that_begins_anew_waits_until_a_move_lets_go_of_the_old_one(tiny: Runner) -> None:
    with running(tiny, hot=2, host=0) as bench:
        copy = bench.open(2)
        bench.until(lambda: copy.next_append == 2)
        assert bench.engine.errands.put(lambda: bench.states.hold(copy)).result(WAIT_S)
        bench.roster.locate(copy, 7)
        bench.roster.grant(copy, 7)
        bench.look_again()
        assert copy.next_chunk == 7
        bench.engine.errands.put(lambda: bench.states.let_go(copy)).result(WAIT_S)
        bench.until(lambda: copy.next_append == 10)  # its whole credit: counters are of whole chunks
        counters = bench.engine.errands.put(lambda: bench.states.counters(copy)).result(WAIT_S)
        assert counters["origin"] == 7


def test_an_operator_suspends_and_resumes_between_chunks(tiny: Runner) -> None:
    with running(tiny, hot=2, host=2) as bench:
        copy = bench.open(3)
        bench.until(lambda: copy.next_append == 3)
        stowed = bench.engine.errands.put(lambda: bench.states.stow(copy, "host")).result(WAIT_S)
        assert (stowed.tier, copy.tier, stowed.bytes) == ("host", "host", 0), "it was copied behind"
        again = bench.engine.errands.put(lambda: bench.states.stow(copy, "host")).result(WAIT_S)
        assert (again.tier, again.phases) == ("host", [])
        back = bench.engine.errands.put(lambda: bench.states.stow(copy, "device")).result(WAIT_S)
        assert (back.tier, back.bytes) == ("device", tiny.spec.state_bytes)
        stranger = bench.roster.add(new_own())
        assert (
            bench.engine.errands.put(lambda: bench.states.stow(stranger, "host")).result(WAIT_S).tier
            == "none"
        )


def test_errands_end_with_their_asker_or_the_engine(tiny: Runner) -> None:
    with running(tiny, hot=1, host=0) as bench:
        started, go_on = threading.Event(), threading.Event()

        def hang() -> bool:
            started.set()
            return go_on.wait(WAIT_S)

        first = bench.engine.errands.put(hang)
        assert started.wait(WAIT_S)
        told: list[int] = []
        waiting = [bench.engine.errands.put(partial(told.append, number)) for number in range(64)]
        with pytest.raises(RuntimeError, match="64 errands wait"):
            bench.engine.errands.put(lambda: None)
        assert waiting[1].cancel()
        go_on.set()
        assert first.result(WAIT_S)
        waiting[-1].result(WAIT_S)
        assert told == [0, *range(2, 64)]
        with pytest.raises(ZeroDivisionError):
            bench.engine.errands.put(lambda: 1 // 0).result(WAIT_S)
        bench.engine.stop()
    assert bench.engine.errands.put(lambda: True).cancelled()
