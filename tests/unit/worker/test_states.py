"""What leaves the device and comes back, however late its copies are, goes on as if it had stayed."""

import random
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker import runner
from services.worker.copies import Copy
from services.worker.models.protocol import SessionModel, State
from services.worker.orders import Order
from services.worker.runner import Runner
from services.worker.shelf import Shelf
from services.worker.states import NoRoom, States
from services.worker.stowing import Stowed
from services.worker.tiers import Tiers
from tests.fixtures.tiny_model import TinyModel
from tests.fixtures.worker_wire import new_own, next_own, steered
from tests.unit.worker.late import LatePool, SlotModel

Frames = npt.NDArray[np.uint8]
PROMPTS = ("a red ball", "a green ball", "a blue ball at sea")


class Played:
    """One copy, beside a state of another model that nobody moves."""

    def __init__(self, key: int, model: SessionModel) -> None:
        self.copy = Copy(key, new_own(PROMPTS[key % 3], seed=key), 0.0)
        self._model = model
        self._reference: State | None = None
        self._shown = ""
        self.order: Order | None = None
        self.state: State | None = None
        self.steps = 0

    def lost(self) -> None:
        self._reference = None

    def begin(self, states: States) -> None:
        copy, own = self.copy, self.copy.own
        order = Order(copy, copy.generation, copy.next_chunk, own.seed, own.inputs, 1, None, "", "", 0.0, 0.0)
        self.state = states.of(order)
        self.order = order
        copy.next_chunk += 1
        self.steps = states.tiers.runner.begin_chunk(self.state, "")

    def expected(self) -> Frames:
        order, model = self.order, self._model
        assert order is not None
        if self._reference is None:
            self._reference = model.open(seed=order.seed, prompt=order.prompt, first_chunk=order.index)
        elif self._shown != order.prompt:
            model.set_prompt(self._reference, order.prompt)
        self._shown = order.prompt
        for _ in range(model.begin_chunk(self._reference, model.spec.rungs[0])):
            model.forward([self._reference])
        return np.asarray(model.decode(self._reference))


class World:
    """Copies on a worker with `slots` places and `host` mirrors, driven by hand."""

    def __init__(
        self, model: SessionModel, reference: SessionModel, slots: int, host: int, count: int, seed: int
    ) -> None:
        self.chance = random.Random(seed)
        self.pool = LatePool(host, model.spec.state_bytes)
        self.played = [Played(key, reference) for key in range(count)]
        self.under_way: dict[Copy, None] = {}
        self.states = States(Shelf(Tiers(Runner(model, "cpu"), self.pool, slots), self.under_way, self._lost))
        self.stowing: list[Callable[[], Stowed | None]] = []
        self.now = 0.0

    def _lost(self, copy: Copy) -> None:
        assert self.pool.free_slots <= 1, "lost, though there was room"
        next(one for one in self.played if one.copy is copy).lost()

    def settle(self) -> None:
        self.now += 1
        self.pool.advance(self.chance, self.chance.randrange(12))
        self.stowing = [poll for poll in self.stowing if poll() is None]
        self.states.shelf.make_ready()
        self.states.forget()
        hot = [one for one in self.played if self.states.has_place(one.copy)]
        assert len(hot) <= self.states.tiers.slots
        assert {one.copy.tier for one in hot} <= {"device"}

    def chunk(self, one: Played) -> None:
        """Begins it, or takes it a step on."""
        states = self.states
        if one.order is None:
            if self.under_way:
                states.fetch_ahead(one.copy)
            placed = states.has_place(one.copy) or states.shelf.room() > 0
            if placed and not (self.under_way and states.coming(one.copy)):
                one.copy.used_at = self.now
                try:
                    one.begin(states)
                except NoRoom:
                    return
                self.under_way[one.copy] = None
        elif one.steps:
            states.tiers.runner.forward([one.state])
            one.steps -= 1
        else:
            self._decode(one)

    def _decode(self, one: Played) -> None:
        self.states.copy_behind(one.copy)
        self.pool.advance(self.chance, self.chance.randrange(4))
        made = states_decode(self.states, one.state)
        del self.under_way[one.copy]
        self.states.copy_behind(one.copy)
        expected = one.expected()
        assert (made == expected).all(), f"chunk {one.copy.next_chunk - 1} of copy {one.copy.key}"
        one.order = one.state = None

    def carry(self, one: Played, other: Played) -> None:
        """A move within: `other` takes over what `one` is, and `one` begins a picture anew elsewhere."""
        states = self.states
        try:
            if one.order or other.order or not states.hold(one.copy):
                return
            states.forget()
            states.let_go(other.copy)
            other.copy.generation += 1
            other.lost()
            states.forget()
            place, _ = states.reserve(other.copy)
        except NoRoom:
            states.let_go(one.copy)
            return
        other.copy.generation += 1
        place[:] = states.memory(one.copy)
        counters = msgspec.msgpack.decode(msgspec.msgpack.encode(states.counters(one.copy)))
        states.adopt(other.copy, counters, states.shown(one.copy))
        states.let_go(other.copy)
        states.let_go(one.copy)
        one.copy.generation += 1
        other._reference, other._shown, one._reference = one._reference, one._shown, None
        other.copy.own, other.copy.next_chunk = one.copy.own, one.copy.next_chunk

    def end(self) -> None:
        while self.under_way:
            for one in self.played:
                if one.order:
                    self.chunk(one)
            self.settle()
        for one in self.played:
            one.copy.gone = True
            self.states.let_go(one.copy)
        while self.pool.busy():
            self.settle()
        self.settle()
        assert (self.pool.free_slots, self.states.tiers.free) == (
            self.pool._memory.shape[0],
            self.states.tiers.slots,
        )
        assert not self.states.shelf.kept
        assert not self.states.shelf.held


def states_decode(states: States, state: State) -> Frames:
    return states.tiers.runner.decode(state).copy()


ACTIONS = (
    *["chunk"] * 20,
    *("pause", "pause", "prompt", "host", "host", "device", "hold", "go", "carry", "new"),
)


def act(world: World, action: str, number: int) -> None:
    one = world.played[number % len(world.played)]
    own, states = one.copy.own, world.states
    if action == "chunk":
        world.chunk(one)
    elif action == "pause":
        one.copy.own = next_own(own, paused=not own.paused)
    elif action == "prompt":
        one.copy.own = steered(own, PROMPTS[number % 3])
    elif action in {"host", "device"}:
        world.stowing.append(states.stow(one.copy, action).poll)
    elif action == "hold" and world.states.shelf.room() > 1:
        states.hold(one.copy)
    elif action == "go":
        states.let_go(one.copy)
    elif action == "carry" and not (states.shelf.held & {one.copy}):
        other = world.played[(number + 1) % len(world.played)]
        if other is not one and other.copy not in states.shelf.held:
            world.carry(one, other)
    elif action == "new" and not one.order and one.copy not in states.shelf.held:
        one.copy.generation += 1
        one.lost()
    world.settle()


def play(world: World, actions: int) -> None:
    for _ in range(actions):
        act(world, world.chance.choice(ACTIONS), world.chance.randrange(12))
    world.end()


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**32))
def test_however_late_copies_are_every_frame_is_as_uninterrupted(slots: int, host: int, seed: int) -> None:
    model = SlotModel(slots)
    play(World(model, TinyModel(), slots, host, 4, seed), 300)
    assert len(model.free) == slots


def test_sprites_too() -> None:
    model = runner.load("services.worker.models", "sprites", "cpu", "").model
    play(World(model, model, slots=1, host=3, count=2, seed=5), 60)


def test_a_thousand_sessions_leave_everything_where_it_was() -> None:
    """Opened, suspended, resumed, moved to another worker, closed."""
    models = SlotModel(2), SlotModel(2)
    here, there = (World(model, TinyModel(), 2, 2, 0, seed=1) for model in models)
    for number in range(1000):
        source, target = Played(number, TinyModel()), Played(number, TinyModel())
        until_decoded(here, source)
        for tier in ("host", "device"):
            assert stowed(here, source.copy, tier).tier == tier == source.copy.tier
        assert here.states.hold(source.copy)
        there.states.reserve(target.copy)[0][:] = here.states.memory(source.copy)
        counters, shown = here.states.counters(source.copy), here.states.shown(source.copy)
        there.states.adopt(target.copy, counters, shown)
        there.states.let_go(target.copy)
        target._reference, target._shown, target.copy.next_chunk = source._reference, source._shown, 1
        for world, one in ((here, source), (there, target)):
            if world is there:
                until_decoded(there, target)
            one.copy.gone = True
            world.states.let_go(one.copy)
            world.pool.advance(world.chance, 12)  # or ever more would be under way
            world.settle()
    for world, model in zip((here, there), models, strict=True):
        world.end()
        assert len(model.free) == 2


def until_decoded(world: World, one: Played) -> None:
    world.chunk(one)
    while one.order:
        world.chunk(one)


def stowed(world: World, copy: Copy, tier: str) -> Stowed:
    asked = world.states.stow(copy, tier)
    while (answer := asked.poll()) is None:
        world.settle()
    names = {"host": ["wait", "copy", "free"], "device": ["take", "copy", "adopt"]}[tier]
    assert [phase.name for phase in answer.phases] == names
    assert all(phase.duration_s >= 0 for phase in answer.phases)
    return answer


def test_a_state_that_is_held_stays_also_when_its_copy_is_gone() -> None:
    world = World(SlotModel(1), TinyModel(), 1, 1, 0, 1)
    one, other = Played(0, TinyModel()), Played(1, TinyModel())
    until_decoded(world, one)
    assert world.states.hold(one.copy)
    with pytest.raises(NoRoom, match="all 1 places"):
        world.states.reserve(other.copy)
    one.copy.gone = True
    world.states.forget()
    memory = world.states.memory(one.copy).copy()
    assert memory.any()
    assert world.states.shelf.room() == 0
    world.states.let_go(one.copy)
    assert not world.states.reserve(other.copy)[0].any(), "its bytes went with it"
    world.states.let_go(other.copy)
    assert not world.states.hold(other.copy), "never adopted: there is nothing"
    assert world.states.tiers.free == 1


def test_who_has_nothing_left_to_copy_leaves_at_once_though_another_state_waits_to_be_copied() -> None:
    world = World(SlotModel(2), TinyModel(), 2, 2, 0, 1)
    one, other = world.played = [Played(key, TinyModel()) for key in range(2)]
    until_decoded(world, one)
    while world.pool.busy():
        world.settle()
    until_decoded(world, other)
    assert world.pool.waiting, "all of the other's"
    asked = world.states.stow(one.copy, "host")
    answer = asked.poll()
    assert answer is not None
    assert (answer.bytes, world.states.tiers.free) == (0, 1)
    stowed(world, one.copy, "device")
    until_decoded(world, one)
    world.end()


def test_a_mirror_begins_with_the_first_step_and_not_before_one_that_a_move_waits_for() -> None:
    world = World(SlotModel(1), TinyModel(), 1, 1, 0, 1)
    one = Played(0, TinyModel())
    world.chunk(one)
    world.states.let_go(one.copy)
    kept = world.states.shelf.kept[one.copy]
    assert (kept.mirror, world.pool.busy()) == (None, False)
    world.states.copy_ahead(one.copy)
    mirror = world.states.shelf.kept[one.copy].mirror
    assert mirror is not None
    assert world.pool.waiting
    world.states.not_stepped(one.copy)
    assert not mirror.versions, "what failed may be in all of it"
    world.played = [one]
    world.end()


def refuse(*_: object) -> tuple[object, object]:
    raise RuntimeError("CUDA error: invalid argument")


def test_a_state_whose_copy_fails_is_lost_if_it_was_all_there_was_and_copied_again_if_not() -> None:
    world = World(SlotModel(2), TinyModel(), 2, 2, 0, 1)
    lost: list[int] = []
    world.states.shelf.on_lost = lambda copy: lost.append(copy.key)
    suspended, hot = world.played = [Played(key, TinyModel()) for key in range(2)]
    for one in (hot, suspended):
        until_decoded(world, one)
    assert world.states.stow(suspended.copy, "host").poll() is None
    pool, copy = world.pool, world.pool.late.copy
    assert pool._outward is not None
    pool._outward._tell = refuse
    while pool.waiting:
        pool.late.settle()
        world.states.pump()
    assert lost == [0]
    assert (suspended.copy.tier, hot.copy.tier) == ("none", "device")
    pool._outward._tell = partial(copy, "out")
    world.states.copy_behind(hot.copy)
    stowed(world, hot.copy, "host")
    stowed(world, hot.copy, "device")
    until_decoded(world, hot)
    world.end()


def test_what_could_not_be_copied_is_not_brought_back_before_anybody_noticed() -> None:
    world = World(SlotModel(1), TinyModel(), 1, 1, 0, 1)
    lost: list[int] = []
    world.states.shelf.on_lost = lambda copy: lost.append(copy.key)
    (one,) = world.played = [Played(0, TinyModel())]
    until_decoded(world, one)
    assert world.pool._outward is not None
    world.pool._outward._tell = refuse
    world.states.stow(one.copy, "host").poll()
    with pytest.raises(NoRoom):
        one.begin(world.states)
    assert lost == [0]
    one.lost()
    until_decoded(world, one)
    world.end()


def test_in_full_host_memory_mirrors_of_the_hot_give_way_and_then_the_longest_suspended() -> None:
    world = World(SlotModel(1), TinyModel(), 1, 2, 0, 1)
    lost: list[int] = []
    world.states.shelf.on_lost = lambda copy: lost.append(copy.key)
    played = [Played(key, TinyModel()) for key in range(4)]
    for now, one in enumerate(played):
        world.now = one.copy.used_at = now
        until_decoded(world, one)
        one.copy.own = next_own(one.copy.own, paused=True)
    assert lost == [0]
    assert [one.copy.tier for one in played] == ["none", "host", "host", "device"]
