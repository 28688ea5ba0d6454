"""States that leave and come back while the device hasn't done what it was told: nobody's bytes are
another's, or of another time.
"""

import contextlib
import logging
import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.copies import Copy
from services.worker.offload import HostPool
from services.worker.orders import Order
from services.worker.shelf import Shelf
from services.worker.states import NoRoom, States
from services.worker.stowing import Stowed
from services.worker.tiers import Tiers
from tests.fixtures.worker_wire import new_own, next_own, steered
from tests.unit.worker.late_device import SIZE, Device, LateModel, LateRunner, State

ACTIONS = (
    *["chunk"] * 14,
    *("again", "failed step", "pause", "prompt", "taken ahead", "host", "device", "hold", "go", "anew"),
)


class Play:
    """Some sessions on `slots` places, driven as the engine does."""

    def __init__(self, slots: int, host: int, at_once: int, failing: float, seed: int) -> None:
        self.chance = random.Random(seed)
        self.device = Device(self.chance)
        self.model = LateModel(self.device, slots)
        self.pool = HostPool(host, SIZE, "cpu", lanes=self.device)
        assert self.pool._outward is not None
        self.pool._piece_bytes, self.pool._outward._most_bytes = SIZE // 6, at_once
        self.device.failing = failing
        self.under_way: dict[Copy, None] = {}
        self.states = States(
            Shelf(Tiers(LateRunner(self.model, self.device), self.pool, slots), self.under_way)
        )
        self.copies = [Copy(key, new_own("a red ball", seed=key), 0.0) for key in range(5)]
        self.made: dict[Copy, tuple[Order, State]] = {}
        self.stowing: list[Callable[[], Stowed | None]] = []

    def act(self, action: str, copy: Copy) -> None:
        states, own, busy = self.states, copy.own, copy in self.under_way
        if action == "chunk":
            self.take_on(copy) if busy else self.begin(copy)
        elif action == "pause":
            copy.own = next_own(own, paused=not own.paused)
        elif action == "prompt":
            copy.own = steered(own, self.chance.choice(("a red ball", "a blue ball")))
        elif action in ("host", "device"):
            self.stowing = [*self.stowing[-9:], states.stow(copy, action).poll]
        elif action == "hold" and states.shelf.room() > 1:
            states.hold(copy)
        elif action == "go":
            states.let_go(copy)
        elif busy:
            self.disturb(action, copy)
        else:
            self.change(action, copy)

    def disturb(self, action: str, copy: Copy) -> None:
        """Its chunk under way."""
        if action == "again":
            self.model.begin_chunk(self.states.of(self.made[copy][0]), self.model.spec.rungs[0])
        elif action == "failed step":
            self.states.not_stepped(copy)

    def change(self, action: str, copy: Copy) -> None:
        """Between two chunks."""
        states = self.states
        if action == "taken ahead" and states.lacks_prompt(copy, "a white ball"):
            states.take_prompt(copy, "a white ball", "")
            state: State | None = states.shelf.kept[copy].state
            assert state is not None
            self.model.write(state, "ring.0")
            states.prompt_taken(copy)
        elif action == "anew" and copy not in states.shelf.held:
            copy.generation += 1

    def begin(self, copy: Copy) -> None:
        states, own = self.states, copy.own
        if self.under_way:
            states.fetch_ahead(copy)
        placed = states.has_place(copy) or states.shelf.room() > 0
        if not placed or states.outdated(copy) or (self.under_way and states.coming(copy)):
            return
        order = Order(copy, copy.generation, copy.next_chunk, 1, own.inputs, 1, None, "", "", 0.0, 0.0)
        state = states.of(order)
        self.model.begin_chunk(state, self.model.spec.rungs[0])
        self.under_way[copy], self.made[copy] = None, (order, state)
        copy.next_chunk += 1
        copy.used_at = self.chance.random()

    def take_on(self, copy: Copy) -> None:
        state = self.made[copy][1]
        if state.left:
            self.states.tiers.runner.launch([state])
            self.states.copy_ahead(copy)
            return
        self.states.copy_behind(copy)
        self.look()
        self.model.decode(state)
        del self.under_way[copy], self.made[copy]
        self.states.copy_behind(copy)

    def look(self) -> None:
        """What the engine does between steps and beside them."""
        for _ in range(self.chance.choice((0, 1, 3, 10, 40))):
            self.device.go_on()
        if self.chance.random() < 0.7:
            self.states.pump()
        self.states.shelf.make_ready()
        self.states.forget()
        self.stowing = [poll for poll in self.stowing if poll() is None]

    def end(self) -> None:
        while self.under_way:
            self.take_on(next(iter(self.under_way)))
        for copy in self.copies:
            copy.gone = True
            self.states.let_go(copy)
        for _ in range(10_000):
            self.look()
            if not (self.pool.waiting or self.device.busy or self.states.tiers.leaving):
                return
        raise AssertionError("something never ends")


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(0, 4),
    st.sampled_from([SIZE // 6, SIZE // 2, 2 * SIZE]),
    st.sampled_from([0.0, 0.0, 0.03]),
    st.integers(0, 2**32),
)
def test_wherever_the_device_reads_a_state_it_is_as_it_should_be(
    slots: int, host: int, at_once: int, failing: float, seed: int
) -> None:
    play = Play(slots, host, at_once, failing, seed)
    logging.disable()  # records that pytest keeps would keep states
    try:
        for _ in range(300):
            with contextlib.suppress(NoRoom):
                play.act(play.chance.choice(ACTIONS), play.chance.choice(play.copies))
            play.look()
        play.end()
    finally:
        logging.disable(logging.NOTSET)
    assert (play.states.tiers.free, play.pool.free_slots, len(play.model.free)) == (slots, host, slots)
