"""The engine without a bus: what takes long is done in pieces, and between them all goes on."""

from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any

import pytest

from services.worker import yielding
from services.worker.copies import Copy
from services.worker.curve import Curve
from services.worker.models.protocol import PastChunk, Rung, State
from services.worker.planning import Quiet
from services.worker.runner import Runner
from tests.fixtures.worker_wire import next_own, steered
from tests.unit.worker.late import SlotModel
from tests.unit.worker.test_engine import FAR, WAIT_S, Bench, HeldStep, running
from tests.unit.worker.test_engine_early import _versions
from tests.unit.worker.test_rebuilding import Memory


class Divided(SlotModel):
    """`at_piece` is called in every piece, with how many there were before."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.at_piece: Callable[[int], None] = lambda _: None
        self.pieces = 0

    def rebuild_in_pieces(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> Any:
        state = self.open(seed=seed, prompt=prompt, first_chunk=past[0].index)
        state.origin = past[0].origin
        for chunk in past:
            self._piece()
            state.next_chunk, state.shown = chunk.index, chunk.prompt
            self._keep(state, chunk.latents)
            self._leave(state)
            yield
        return state

    def take_prompt(self, state: State, rung: Rung) -> None:  # noqa: ARG002
        raise AssertionError("it is taken in pieces")

    def take_prompt_in_pieces(self, state: State, rung: Rung) -> Iterator[None]:  # noqa: ARG002
        for _ in range(4):
            self._piece()
            yield

    def _piece(self) -> None:
        self.at_piece(self.pieces)
        self.pieces += 1


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yielding, "PATIENCE_S", 1e9)


def lost(bench: Bench, chunks: int = 4) -> tuple[Copy, tuple[PastChunk, ...]]:
    """A copy whose state is gone after so many chunks, with credit for one more, and what it is made of."""
    memory, copy = Memory(bench), bench.open(chunks)
    bench.until(lambda: copy.next_append == chunks)
    bench.roster.locate(copy, chunks, seek=True)
    bench.look_again()
    bench.roster.grant(copy, chunks - 2)
    return copy, memory.past(copy)


def found(bench: Bench, copy: Copy, past: tuple[PastChunk, ...]) -> None:
    bench.roster.found(copy, copy.generation, past)


def telling(
    bench: Bench,
    model: Divided,
    at_piece: Callable[[int], None] = lambda _: None,
    at_first_step: Callable[[], None] = lambda: None,
) -> list[str]:
    """The device's steps and pieces from now on, in order. `at_piece` is called as `Divided` has it."""
    told: list[str] = []
    launch = bench.engine.runner.launch

    def piece(number: int) -> None:
        told.append("piece")
        at_piece(number)

    def launched(states: list[Any]) -> Any:
        if "step" not in told:
            at_first_step()
        told.append("step")
        return launch(states)

    model.at_piece, bench.engine.runner.launch = piece, launched  # type: ignore[method-assign]
    return told


def rebuilt(*, beside: bool) -> list[bytes]:
    """What the lost one makes in all. `beside`: another one makes a chunk after every piece."""
    model = Divided(2)
    with running(Runner(model, "cpu"), hot=2, host=0) as bench:
        bench.roster._chunk_duration_s = FAR / 2
        bench.engine.restarting.costs.learn_rebuild(FAR)  # behind all of it the other one would be late
        other, (copy, past) = bench.open(0), lost(bench)
        begun: list[int] = []

        def at_piece(number: int) -> None:
            begun.append(other.next_chunk)
            assert copy.tier == "none", "nobody's before the last piece"
            if beside:
                bench.until(lambda: other.next_append == other.next_chunk)
                bench.roster.grant(other, number - 2)

        model.at_piece = at_piece
        found(bench, copy, past)
        bench.until(lambda: copy.next_append == 5)
        assert begun == (list(range(len(past))) if beside else [0] * len(past))
    return bench.made[copy.session]


def test_others_are_stepped_between_the_pieces_of_a_rebuild_and_it_comes_out_the_same() -> None:
    assert rebuilt(beside=True) == rebuilt(beside=False)


def test_a_rebuild_goes_on_though_all_other_places_have_a_chunk_under_way() -> None:
    model = Divided(2)
    with running(Runner(model, "cpu"), hot=2, host=0) as bench:
        bench.roster._chunk_duration_s = FAR / 2
        bench.engine.restarting.costs.curves = {"": Curve("all", ((1, 1.0),))}
        other, (copy, past) = bench.open(0), lost(bench)
        told = telling(bench, model, at_first_step=lambda: found(bench, copy, past))
        bench.roster.grant(other, -2)
        bench.until(lambda: (other.next_append, copy.next_append) == (1, 5))
    assert told == ["step", *["piece"] * len(past), *["step"] * 3], "its chunk is needed first"


def test_a_rebuild_that_nobody_wants_now_is_as_urgent_as_who_waits_behind_it() -> None:
    model = Divided(3)
    with running(Runner(model, "cpu"), hot=3, host=0) as bench:
        bench.roster._chunk_duration_s = FAR / 2
        other, (paused, its), (copy, past) = bench.open(0), lost(bench), lost(bench)

        def at_piece(number: int) -> None:
            if number == 1:
                bench.roster.apply(paused, next_own(paused.own, paused=True))
                found(bench, copy, past)
                bench.roster.grant(other, -2)

        told = telling(bench, model, at_piece=at_piece)
        found(bench, paused, its)
        bench.until(lambda: (other.next_append, copy.next_append) == (1, 5))
    assert told.index("step") == len(its)


@pytest.mark.parametrize("in_time", [True, False])
def test_a_prompt_waits_for_the_end_of_a_rebuild_unless_its_chunk_would_be_late(in_time: bool) -> None:
    """Then it is the chunk's own, which is no longer than it was before there were pieces."""
    model = Divided(2)
    with running(Runner(model, "cpu"), hot=2, host=0) as bench:
        bench.roster._chunk_duration_s = 2 * FAR
        bench.engine.restarting.costs.curves = {"": Curve("all", ((1, 1.0),))}
        bench.engine.restarting.costs.learn_rebuild(FAR if in_time else 3 * FAR)
        made, other = _versions(bench), bench.open(1)
        bench.until(lambda: other.next_append == 1)
        copy, past = lost(bench)
        white = steered(other.own, "a white ball")

        def at_piece(number: int) -> None:
            if number == 1:
                bench.roster.apply(other, white)
                bench.roster.grant(other, -1)

        told = telling(bench, model, at_piece=at_piece)
        found(bench, copy, past)
        bench.until(lambda: (other.next_append, copy.next_append) == (2, 5))
        assert (1, white.inputs_version) in made
    assert told.count("piece") == len(past) + 4 * in_time
    assert (told.index("step") > len(past) - 1) == in_time


def test_the_device_stands_still_only_while_nobody_needs_it() -> None:
    model, still = Divided(2), list[Any]()
    with running(Runner(model, "cpu"), hot=2, host=0) as bench:
        bench.roster._chunk_duration_s = FAR / 2
        errands, planning = bench.engine.errands, bench.engine.planning
        copy, launch = bench.open(0), bench.engine.runner.launch
        assert errands.put(lambda: Quiet(planning, FAR)).result(WAIT_S)

        def launched(states: list[Any]) -> Any:
            still.append(errands.put(lambda: Quiet(planning, 0.0)))
            still.append(errands.put(lambda: [answer.done() for answer in still]))
            return launch(states)

        bench.engine.runner.launch = launched  # type: ignore[method-assign]
        bench.roster.grant(copy, -2)
        bench.until(lambda: copy.next_append == 1)
        assert still[0].result(WAIT_S)
        assert still[1].result(WAIT_S) == [False, False], "its chunk is under way"


def test_who_leaves_in_the_midst_of_a_rebuild_leaves_a_free_place() -> None:
    model = Divided(1)
    with running(Runner(model, "cpu"), hot=1, host=0) as bench:
        copy, past = lost(bench)
        model.at_piece = lambda number: bench.roster.remove(copy) if number == 1 else None
        found(bench, copy, past)
        bench.until(lambda: copy.gone)
        other = bench.open(2)
        bench.until(lambda: other.next_append == 2)
        assert (model.pieces, bench.states.tiers.free, other.error) == (2, 0, "")
        bench.roster.remove(other)
        bench.look_again()
        assert (bench.states.tiers.free, model.free) == (1, [0])


def test_a_rebuild_that_fails_in_its_midst_begins_the_picture_anew() -> None:
    model = Divided(1)
    with running(Runner(model, "cpu"), hot=1, host=0) as bench:
        copy, past = lost(bench)

        def at_piece(number: int) -> None:
            if number == 1:
                raise RuntimeError("these aren't its latents")

        model.at_piece = at_piece
        found(bench, copy, past)
        bench.until(lambda: copy.next_append == 5)
        counters = bench.engine.errands.put(lambda: bench.states.counters(copy)).result(WAIT_S)
        assert (model.pieces, counters["origin"], copy.error) == (1, 4, "")


def test_what_is_asked_of_a_state_that_is_being_rebuilt() -> None:
    """A move finds nothing to carry, a suspend waits, a prompt shows in its chunk."""
    model = Divided(2)
    with running(Runner(model, "cpu"), hot=2, host=2) as bench:
        made, (copy, past) = _versions(bench), lost(bench)
        white = steered(copy.own, "a white ball")
        answers: list[Any] = []

        def at_piece(number: int) -> None:
            errands, states = bench.engine.errands, bench.states
            if number == 1:
                answers.append(errands.put(lambda: states.hold(copy), soon=True))
                answers.append(errands.put(lambda: states.stow(copy, "host"), soon=True))
                bench.roster.apply(copy, next_own(white, paused=True))
            assert [answer.done() for answer in answers[1:]] in ([], [False])

        model.at_piece = at_piece
        found(bench, copy, past)
        bench.until(lambda: len(answers) == 2)
        assert answers[0].result(WAIT_S) is None
        assert answers[1].result(WAIT_S).tier == "host"
        assert (model.pieces, copy.next_append) == (len(past), 4)
        bench.roster.apply(copy, next_own(white, revision=9, paused=False))
        bench.until(lambda: copy.next_append == 5)
        assert made[-1] == (4, white.inputs_version)


def test_a_prompt_half_taken_gives_way_to_another_one_and_to_a_move() -> None:
    model = Divided(2)
    with running(Runner(model, "cpu"), hot=2, host=0) as bench:
        made, copy = _versions(bench), bench.open(2)
        bench.until(lambda: copy.next_append == 2)
        bench.look_again()
        green = steered(copy.own, "a green ball")
        white = steered(green, "a white ball")
        blue = steered(white, "a blue ball")

        def at_piece(number: int) -> None:
            if number == 1:
                bench.roster.apply(copy, white)
            if number == 3:
                bench.roster.transit.leave(copy, True)

        model.at_piece = at_piece
        bench.roster.apply(copy, green)
        bench.until(lambda: model.pieces == 4)
        assert bench.engine.errands.put(lambda: bench.states.hold(copy), soon=True).result(WAIT_S)
        bench.look_again()
        assert bench.engine.preparing.job is None
        assert bench.states.shown(copy) == "a white ball"
        bench.engine.errands.put(lambda: bench.states.let_go(copy)).result(WAIT_S)
        bench.roster.transit.leave(copy, False)
        bench.roster.grant(copy, 0)
        bench.until(lambda: copy.next_append == 3)
        assert (model.pieces, made[-1]) == (4, (2, white.inputs_version)), "the rest is the chunk's own"
        bench.roster.apply(copy, blue)
        bench.until(lambda: model.pieces == 8)


def test_a_suspend_and_a_resume_need_no_end_of_anothers_step() -> None:
    model = SlotModel(3)
    with running(Runner(model, "cpu"), hot=3, host=3) as bench:
        away, here, other = (bench.open(2) for _ in range(3))
        bench.until(lambda: all(copy.next_append == 2 for copy in (away, here, other)))
        bench.roster.apply(away, next_own(away.own, paused=True))
        errands, states = bench.engine.errands, bench.states
        assert errands.put(lambda: states.stow(away, "host")).result(WAIT_S).tier == "host"
        step, reached, launch = HeldStep(), Event(), bench.engine.runner.launch

        def launched(given: list[Any]) -> HeldStep:
            launch(given)
            reached.set()
            return step

        bench.engine.stepper._step_s[1] = WAIT_S
        bench.engine.runner.launch = launched  # type: ignore[method-assign, assignment]
        bench.roster.grant(other, 0)
        assert reached.wait(WAIT_S)
        asked = [errands.put(lambda: states.stow(here, "host"), soon=True)]
        asked.append(errands.put(lambda: states.stow(here, "device"), soon=True))
        asked.append(errands.put(lambda: states.stow(other, "host"), soon=True))
        assert [answer.result(WAIT_S).tier for answer in asked[:2]] == ["host", "device"]
        bench.roster.apply(away, next_own(away.own, revision=9, paused=False, granted_through=FAR))
        bench.until(lambda: away.tier == "device")
        assert not asked[2].done(), "its chunk is under way"
        assert other in bench.states.shelf.awaited
        bench.roster.remove(away)
        bench.engine.runner.launch = launch  # type: ignore[method-assign]
        step.let_go()
        with bench.roster.changed:
            bench.roster.changed.notify_all()
        assert asked[2].result(WAIT_S).tier == "host"
