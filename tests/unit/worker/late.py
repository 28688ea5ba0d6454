"""A host pool whose copies happen whenever they like, as a GPU's do, and a model whose places are used again.

Reading a place after its next owner wrote to it, or using bytes before they came, shows in the frames.
"""

import random
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from services.worker.models.protocol import Memory
from services.worker.models.slots import NoSlot
from services.worker.offload import HostPool
from tests.fixtures.tiny_model import SPEC, State, TinyModel


class _Event:
    """Done once all its pieces are copied, which are so in order, after those of `after`."""

    def __init__(self, pieces: list[tuple[Memory, Memory]], after: list["_Event"]) -> None:
        self._pieces, self._after = pieces[::-1], after

    def query(self) -> bool:
        self._after = [event for event in self._after if not event.query()]
        return not self._pieces and not self._after

    def step(self) -> None:
        if self.query():
            return
        if self._after:
            self._after[0].step()
        elif self._pieces:
            into, source = self._pieces.pop()
            np.asarray(into)[:] = np.asarray(source)

    def synchronize(self) -> None:
        while not self.query():
            self.step()

    def elapsed_time(self, other: "_Event") -> float:
        assert other.query()
        return 1.0


class LateLanes:
    """Two lanes, in and out, each in order, and what was told to come before; nothing else is."""

    def __init__(self) -> None:
        self._under_way: list[_Event] = []
        self._last: dict[str, _Event] = {}

    def told(self) -> _Event:
        """The model is over with all it was told."""
        return _Event([], [])

    def copy(self, lane: str, into: Any, source: Any, after: Sequence[_Event]) -> tuple[_Event, _Event]:
        half, before = len(into) // 2, [self._last[lane]] if lane in self._last else []
        halves = [(into[:half], source[:half]), (into[half:], source[half:])]
        event = _Event(halves, [*before, *after])
        self._last[lane] = event
        self._under_way.append(event)
        return event, event

    def join(self, event: _Event) -> None:
        event.synchronize()

    def settle(self) -> None:
        while self._under_way:
            self._under_way.pop().synchronize()

    def busy(self) -> bool:
        self._under_way = [event for event in self._under_way if not event.query()]
        return bool(self._under_way)

    def step(self, chance: random.Random) -> None:
        if self.busy():
            chance.choice(self._under_way).step()


class LatePool(HostPool):
    """Tells little at a time, so that much waits."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.late = LateLanes()
        super().__init__(slots, slot_bytes, "cpu", lanes=self.late)
        assert self._outward is not None
        self._piece_bytes = slot_bytes // 4
        self._outward._most_bytes = slot_bytes // 2

    def advance(self, chance: random.Random, pieces: int) -> None:
        """Some of what waits is told, and some of what is under way is copied."""
        for _ in range(pieces):
            if chance.random() < 0.3:
                assert not self.pump()
            self.late.step(chance)

    def busy(self) -> bool:
        return self.waiting or self.late.busy()


class LookedAtPool(LatePool):
    """Copies a hundredth of a state whenever it is pumped, and nothing else."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        super().__init__(slots, slot_bytes)
        assert self._outward is not None
        self._piece_bytes = self._outward._most_bytes = -(-slot_bytes // 100)

    def pump(self) -> set[int]:
        failed = super().pump()
        self.late.settle()
        return failed


class SlotModel(TinyModel):
    """The tiny model with `slots` places, which are blank when taken and garbage when given back."""

    def __init__(self, slots: int) -> None:
        self.places = [np.zeros(SPEC.state_bytes, np.uint8) for _ in range(slots)]
        self.free = list(range(slots))

    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:
        return self._placed(State(seed, prompt, first_chunk, first_chunk))

    def reserve(self) -> State:
        return self._placed(super().reserve())

    def _placed(self, state: State) -> State:
        if not self.free:
            raise NoSlot("every place is taken")
        place = self.free.pop()
        state.memory = self.places[place]
        state.memory[:] = 0
        weakref.finalize(state, self._give_back, place)
        return state

    def _give_back(self, place: int) -> None:
        self.places[place][:] = 0xEE
        self.free.append(place)
