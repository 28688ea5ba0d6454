"""A host pool whose copies happen whenever they like, as a GPU's do, and a model whose places are used again.

Reading a place after its next owner wrote to it, or using bytes before they came, shows in the frames.
"""

import random
import weakref
from typing import Any

import numpy as np

from services.worker.models.protocol import Memory
from services.worker.models.slots import NoSlot
from services.worker.offload import Copying, HostPool
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


class LatePool(HostPool):
    """Three lanes, in, out and leaving, and every slot's copies in order; nothing else is."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        super().__init__(slots, slot_bytes, "cpu")
        self._under_way: list[_Event] = []
        self._last: dict[Any, _Event] = {}

    def advance(self, chance: random.Random, pieces: int) -> None:
        """Some of what is under way is copied."""
        for _ in range(pieces):
            self._under_way = [event for event in self._under_way if not event.query()]
            if self._under_way:
                chance.choice(self._under_way).step()

    def join(self, copying: Copying) -> None:
        copying.ended.synchronize()

    def _copy(
        self,
        into: Any,
        source: Any,
        spans: list[tuple[int, int]],
        slot: int,
        lane: str,
        after: Any,  # noqa: ARG002
    ) -> Copying:
        halves = [
            cut for start, end in spans for cut in ((start, (start + end) // 2), ((start + end) // 2, end))
        ]
        before = [self._last[key] for key in (lane, slot) if key in self._last]
        event = _Event([(into[start:end], source[start:end]) for start, end in halves], before)
        self._last[lane] = self._last[slot] = event
        self._under_way.append(event)
        return Copying(sum(end - start for start, end in spans), 0.0, event, event)


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
