"""A device that does what it is told when it likes, each stream in order: steps, too, and not copies only.

Its model knows what a state's bytes should be, and looks whether they are, wherever the device would read
them.
"""

import random
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from services.worker.models.protocol import Final, ModelSpec, Part, Rung
from services.worker.models.slots import Spans
from services.worker.runner import Runner, Step
from tests.fixtures.tiny_model import SPEC

Bytes = npt.NDArray[np.uint8]
SIZE, STEPS = 96, 3
PARTS: dict[str, Spans] = {
    **{f"ring.{n}": ((8 * n, 8 * n + 8), (40 + 8 * n, 48 + 8 * n)) for n in range(3)},
    "cross": ((24, 40),),
    "latents": ((64, 80),),
    "decoder": ((80, SIZE),),
}


class Event:
    def __init__(self, device: "Device") -> None:
        self.over, self._device = False, device

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        while not self.over:
            assert self._device.go_on(), "it waits for ever"

    def elapsed_time(self, _: "Event") -> float:
        return 1.0


class Device:
    """With the pool's lanes. `failing`: how many of the copies it is told it refuses."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.failing = chance, 0.0
        self._streams: dict[str, deque[tuple[Callable[[], None], Sequence[Event], Event]]] = {
            name: deque() for name in ("steps", "out", "in")
        }

    @property
    def busy(self) -> bool:
        return any(self._streams.values())

    def tell(self, work: Callable[[], None], stream: str = "steps", after: Sequence[Event] = ()) -> Event:
        event = Event(self)
        self._streams[stream].append((work, after, event))
        return event

    def go_on(self) -> bool:
        """The next of some stream. False: none can."""
        able = [s for s in self._streams.values() if s and all(event.over for event in s[0][1])]
        if able:
            work, _, event = self.chance.choice(able).popleft()
            work()
            event.over = True
        return bool(able)

    def told(self) -> Event:
        return self.tell(lambda: None)

    def copy(self, lane: str, into: Any, source: Any, after: Sequence[Event]) -> tuple[Event, Event]:
        if self.chance.random() < self.failing:
            raise RuntimeError("CUDA error: invalid argument")
        half = len(into) // 2
        begun = self.tell(lambda: _copy(into[:half], source[:half]), lane, after)
        return begun, self.tell(lambda: _copy(into[half:], source[half:]), lane)

    def join(self, event: Event) -> None:
        self.tell(lambda: None, after=[event])

    def settle(self) -> None:
        while self.go_on():
            pass


def _copy(into: Bytes, source: Bytes) -> None:
    into[:] = source


@dataclass(eq=False)
class State:
    """`expected`: its bytes, once the device has done all it was told."""

    place: int
    memory: Bytes
    name: int = 0
    chunk: int = 0
    left: int = 0
    expected: Bytes = field(default_factory=lambda: np.zeros(SIZE, np.uint8))
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    final: dict[str, tuple[Final, ...]] = field(default_factory=dict)


class LateModel:
    """As a `SessionModel` that is a `BlanksAhead` and a `TellsFinal`. A place given back is garbage before it
    is blank.
    """

    def __init__(self, device: Device, slots: int) -> None:
        self.spec: ModelSpec = replace(SPEC, state_bytes=SIZE)
        self.free = list(range(slots))
        self._device, self._names = device, 0
        self._places = [np.zeros(SIZE, np.uint8) for _ in range(slots)]
        self._blank: list[Event | None] = [None] * slots
        self._at_rest: dict[int, Bytes] = {}

    def reserve(self) -> State:
        place = self.free.pop()
        state = State(place, self._places[place])
        weakref.finalize(state, self._give_back, place)
        return state

    def _give_back(self, place: int) -> None:
        for filled in (0xEE, 0):
            self._blank[place] = self._device.tell(lambda f=filled: self._places[place].fill(f))  # type: ignore[misc]
        self.free.append(place)

    def blank(self, state: State) -> Event | None:
        return self._blank[state.place]

    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> State:  # noqa: ARG002
        state, self._names = self.reserve(), self._names + 1
        state.name = self._names
        self._look(state)
        return state

    def set_prompt(self, state: State, _: str) -> None:
        self.write(state, "cross")

    def begin_chunk(self, state: State, _: Rung) -> int:
        self._look(state)
        self.write(state, "latents")
        state.left = STEPS
        return STEPS

    def forward(self, states: Sequence[State]) -> None:
        for state in states:
            self._look(state)
            ring, state.left = f"ring.{state.chunk % 3}", state.left - 1
            written = self.write(state, ring)
            state.final = {} if state.left else {ring: written}
            if state.left:
                self.write(state, "latents")

    def final(self, state: State) -> Mapping[str, Sequence[Final]]:
        return state.final

    def decode(self, state: State) -> None:
        self._look(state)
        self.write(state, "decoder")
        state.chunk += 1

    def memory(self, state: State) -> Bytes:
        return state.memory

    def parts(self, state: State) -> dict[str, Part]:
        return {name: Part(state.versions[name], spans) for name, spans in PARTS.items()}

    def counters(self, state: State) -> dict[str, Any]:
        self._at_rest[state.name] = state.expected.copy()
        return {"name": state.name, "chunk": state.chunk}

    def take_over(self, state: State, counters: Mapping[str, Any]) -> None:
        state.name, state.chunk = counters["name"], counters["chunk"]
        state.expected = self._at_rest[state.name].copy()
        self._look(state)

    def write(self, state: State, part: str) -> tuple[Final, ...]:
        """Span by span, each final on its own."""
        state.versions[part] += 1
        return tuple(self._write(state, start, end) for start, end in PARTS[part])

    def _write(self, state: State, start: int, end: int) -> Final:
        new = np.frombuffer(self._device.chance.randbytes(end - start), np.uint8)
        state.expected[start:end], into = new, state.memory[start:end]
        return Final(start, end, self._device.tell(lambda: _copy(into, new)))

    def _look(self, state: State) -> None:
        expected, memory = state.expected.copy(), state.memory

        def look() -> None:
            assert (memory == expected).all()

        self._device.tell(look)


class LateRunner(Runner):
    def __init__(self, model: LateModel, device: Device) -> None:
        super().__init__(model, "cpu")  # type: ignore[arg-type]
        self._late = device

    def told(self) -> Step | None:
        return self._late.told()
