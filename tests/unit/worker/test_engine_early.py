"""Pictures that are final before a chunk's last step, and prompts that come while it is under way."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy.typing as npt
import pytest

from services.worker import metrics
from services.worker.copies import FAILED, Copy
from services.worker.curve import Curve
from services.worker.making import Made
from services.worker.models.protocol import Rung
from services.worker.runner import Runner
from tests.fixtures.tiny_model import State, TinyModel
from tests.fixtures.worker_wire import next_own, steered
from tests.unit.worker.test_engine import FAR, WAIT_S, Bench, LateStep, running


class EarlyModel(TinyModel):
    """One forward more, which no picture needs. "late" in a prompt: it fails, once `go_on` is set."""

    def __init__(self) -> None:
        self.settling: set[int] = set()
        self.go_on = threading.Event()

    def begin_chunk(self, state: State, rung: Rung) -> int:
        self.settling.add(id(state))
        return super().begin_chunk(state, rung) + 1

    def pictures_final(self, state: State) -> bool:
        return id(state) in self.settling and not state.steps_left

    def forward(self, states: Sequence[State]) -> None:
        for state in states:
            if state.steps_left:
                super().forward([state])
                continue
            if "late" in state.prompt:
                assert self.go_on.wait(WAIT_S)
                raise RuntimeError("its keys can't be made clean")
            self.settling.remove(id(state))

    def decode(self, state: State) -> npt.NDArray:
        assert self.pictures_final(state), "the engine waits no longer than it must"
        return super().decode(state)


Launch = Callable[[list[State]], object]


class Steps:
    """A runner's steps, those wanted ending only when they are told to."""

    def __init__(self, launch: Launch, held: Callable[[State], bool]) -> None:
        self._launch, self._held = launch, held
        self.reached, self.step = threading.Event(), LateStep()

    def launch(self, states: list[State]) -> LateStep | None:
        self._launch(states)
        if not any(map(self._held, states)) or self.step.over.is_set():
            return None
        self.reached.set()
        return self.step

    def await_held(self) -> None:
        assert self.reached.wait(WAIT_S)

    def go_on(self) -> None:
        self.step.over.set()


@pytest.fixture
def early() -> Runner:
    return Runner(EarlyModel(), "cpu")


@pytest.fixture
def settling(early: Runner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Holds the steps after the pictures."""
    steps = Steps(early.launch, lambda state: id(state) not in cast(EarlyModel, early.model).settling)
    monkeypatch.setattr(early, "launch", steps.launch)
    yield steps
    steps.go_on()


def test_a_chunk_is_in_the_log_before_its_last_step_is_over(early: Runner, settling: Steps) -> None:
    told: list[tuple[Copy, object]] = []
    with running(early, hot=1, host=1) as bench:
        bench.engine.crossings.on_boundary = lambda copy, chunk: told.append((copy, chunk))
        copy = bench.open(1, max_chunks=1)
        settling.await_held()
        bench.until(lambda: copy.state == "finished")
        bench.roster.transit.freeze(copy)
        bench.roster.grant(copy, 5)
        assert told == [], "a chunk is under way"
        settling.go_on()
        bench.until(lambda: told == [(copy, None)])
        bench.look_again()
        assert (copy.error, bench.states.tiers.free) == ("", 1)


def test_a_chunk_that_fails_after_its_pictures_ends_its_session_and_stays_in_the_log(early: Runner) -> None:
    with running(early, hot=2, host=0) as bench:
        other = bench.open(0)
        copy = bench.open(1, "too late")
        bench.until(lambda: copy.next_append == 1)
        cast(EarlyModel, early.model).go_on.set()
        bench.until(lambda: copy.ended == FAILED)
        bench.play(other, 3)
        assert copy.error == "RuntimeError: its keys can't be made clean"
        assert (len(bench.made[copy.session]), other.error) == (1, "")


def test_a_chunk_dropped_after_its_pictures_leaves_its_place(early: Runner, settling: Steps) -> None:
    with running(early, hot=1, host=0) as bench:
        copy = bench.open(1)
        settling.await_held()
        bench.until(lambda: copy.next_append == 1)
        bench.roster.remove(copy)
        settling.go_on()
        other = bench.open(2)
        bench.until(lambda: other.next_append == 2)
        assert len(bench.made[copy.session]) == 1


def _is_first_step(state: State) -> bool:
    """The one just made, of two."""
    return state.steps_left == 1


def _versions(bench: Bench) -> list[tuple[int, int]]:
    """Index and inputs_version of what is made from now on."""
    made: list[tuple[int, int]] = []
    deliver = bench.engine.encoding.deliver

    def noted(one: Made) -> None:
        made.append((one.order.index, one.order.inputs_version))
        deliver(one)

    bench.engine.encoding.deliver = noted
    return made


def test_a_prompt_in_time_shows_in_the_chunk_under_way_once(
    early: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = (Steps(early.launch, _is_first_step) for _ in range(2))
    monkeypatch.setattr(early, "launch", first.launch)
    begun = metrics.chunk_restarts._value.get()
    with running(early, hot=1, host=0) as bench:
        made = _versions(bench)
        copy = bench.open(2)
        first.await_held()
        monkeypatch.setattr(early, "launch", again.launch)
        with bench.roster.changed:
            copy.again_until = float("inf")
            in_time = bench.roster.apply(copy, own := steered(copy.own, "a blue ball"))
        first.go_on()
        again.await_held()
        too_late = bench.roster.apply(copy, steered(own, "a green ball"))
        again.go_on()
        bench.until(lambda: copy.next_append == 2)
    assert (in_time.from_chunk, too_late.from_chunk) == (0, 1)
    assert made == [(0, 2), (1, 3)]
    assert metrics.chunk_restarts._value.get() == begun + 1


def test_a_prompt_too_late_or_for_a_frozen_copy_shows_in_the_next_chunk(
    early: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(early.launch, _is_first_step)
    monkeypatch.setattr(early, "launch", steps.launch)
    with running(early, hot=2, host=0) as bench:
        made = _versions(bench)
        copy = bench.open(2)
        steps.await_held()
        with bench.roster.changed:
            copy.again_until = float("inf")
        bench.roster.transit.freeze(copy)
        late = bench.roster.apply(copy, next_own(steered(copy.own, "a blue ball")))
        bench.roster.transit.thaw(copy)
        steps.go_on()
        bench.until(lambda: copy.next_append == 2)
    assert late.from_chunk == 1
    assert made == [(0, 1), (1, 2)]


class AheadModel(EarlyModel):
    """Notes which prompts it took before their chunk began. "explode" fails there too. `meanwhile` is called
    with each prompt set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, str]] = []
        self.meanwhile: Callable[[str], None] = lambda _: None

    def set_prompt(self, state: State, prompt: str) -> None:
        self.meanwhile(prompt)
        super().set_prompt(state, prompt)

    def take_prompt(self, state: State, rung: Rung) -> None:
        if "explode" in state.prompt:
            raise RuntimeError("the prompt said so")
        self.taken.append((state.prompt, rung.name))


def test_a_prompt_whose_chunk_may_not_begin_yet_is_taken_while_nothing_else_is_to_do() -> None:
    """Neither a move nor another's next chunk has to wait for that."""
    model = AheadModel()
    with running(Runner(model, "cpu"), hot=2, host=0) as bench:
        cast(dict[str, Curve], bench.engine.curves)[""] = Curve("all", ((1, 1e-6),))
        bench.roster._chunk_duration_s = FAR
        made = _versions(bench)
        copy, bad = bench.open(2), bench.open(2, "a blue ball")
        bench.until(lambda: copy.next_append == bad.next_append == 2)
        bench.roster.apply(copy, green := steered(copy.own, "a green ball"))
        bench.until(lambda: len(model.taken) == 1)
        bench.roster.transit.leave(bad, True)
        bench.roster.apply(copy, white := steered(green, "a white ball"))
        bench.look_again()
        bench.roster._chunk_duration_s = 0.0
        bench.roster.transit.leave(bad, False)
        bench.look_again()
        assert len(model.taken) == 1
        bench.roster._chunk_duration_s = FAR
        bench.until(lambda: len(model.taken) == 2)
        bench.roster.apply(bad, steered(bad.own, "explode"))
        bench.until(lambda: bool(bad.ended))
        bench.play(copy, 3)
    assert model.taken == [("a green ball", "tiny-default"), ("a white ball", "tiny-default")]
    assert made[-1] == (2, white.inputs_version)
    assert bad.error == "RuntimeError: the prompt said so"


def test_errands_are_run_while_a_prompt_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, step = AheadModel(), LateStep()
    runner = Runner(model, "cpu")
    tell = runner.tell
    with running(runner, hot=1, host=0) as bench:
        copy = bench.open(1)
        bench.until(lambda: copy.next_append == 1)
        bench.look_again()
        monkeypatch.setattr(runner, "tell", lambda work: tell(work) or step)
        bench.roster.apply(copy, steered(copy.own, "a green ball"))
        bench.until(lambda: len(model.taken) == 1)
        bench.engine.errands.put(lambda: None, soon=True).result(WAIT_S)
        between = bench.engine.errands.put(lambda: None)
        assert not between.done()
        step.over.set()
        between.result(WAIT_S)
        bench.play(copy, 2)


class Text:
    """An embedding, known as long as somebody keeps it."""


def test_a_prompt_taken_ahead_keeps_its_embedding_though_another_one_comes() -> None:
    model = AheadModel()
    with running(Runner(model, "cpu"), hot=1, host=0) as bench:
        bench.roster._encodes = True
        copy = bench.open(1)
        bench.roster.show(copy, copy.own, Text())
        bench.until(lambda: copy.next_append == 1)
        known = weakref.ref(text := Text())
        kept: list[bool] = []

        def meanwhile(prompt: str) -> None:
            if "green" in prompt:
                bench.roster.apply(copy, white)
                bench.roster.show(copy, white, Text())
                kept.append(known() is not None)

        model.meanwhile = meanwhile
        green = steered(copy.own, "a green ball")
        white = steered(green, "a white ball")
        with bench.roster.changed:
            bench.roster.apply(copy, green)
            bench.roster.show(copy, green, text)
            del text
        bench.until(lambda: bool(model.taken))
    assert kept == [True]
    assert model.taken == [("a white ball", "tiny-default")], "nobody wants the other one any more"
    assert copy.error == ""
