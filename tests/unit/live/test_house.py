"""What a replay counts, against the simulator's own meter on the same happenings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.live.house import House
from bench.sim import simulate as simulator
from bench.sim.parts import SimSession, SimWorker
from bench.sim.world import World
from bench.traces.generate import generate


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


Happening = tuple[float, Callable[[House], None]]


class Recorded(World):
    """A simulated world that remembers what a replay would have heard of it."""

    last: Recorded

    def __init__(self, profile: Any, seed: int) -> None:
        super().__init__(profile, seed)
        self.heard: list[Happening] = []
        Recorded.last = self

    def _hear(self, tell: Callable[[House, SimSession], None], session: SimSession) -> None:
        name = session.name
        self.heard.append((self.now_s, lambda house: tell(house, house.sessions[name])))

    def arrive(self, name: str) -> SimSession:
        self.heard.append((self.now_s, lambda house: void(house.arrive(name))))
        return super().arrive(name)

    def activate(self, session: SimSession) -> None:
        self._hear(House.activate, session)
        super().activate(session)

    def pause(self, session: SimSession) -> None:
        if not session.gone:
            self._hear(House.pause, session)
        super().pause(session)

    def depart(self, session: SimSession) -> None:
        super().depart(session)
        self._hear(House.depart, session)

    def place(self, session: SimSession, worker: SimWorker) -> None:
        self._owned(session, worker)
        super().place(session, worker)

    def move(self, session: SimSession, target: SimWorker) -> None:
        self._owned(session, target)
        super().move(session, target)

    def _owned(self, session: SimSession, worker: SimWorker) -> None:
        kind = worker.kind
        slots = kind.latency_s

        def tell(house: House, one: SimSession) -> None:
            house.told(worker.name, slots, kind.capacity)
            house.owned_by(one, worker.name)

        self._hear(tell, session)

    def deliver(self, session: SimSession, at_s: float, chunk_s: float) -> None:
        self._hear(lambda house, one: house.deliver(one, at_s, chunk_s), session)
        super().deliver(session, at_s, chunk_s)


def void(_: object) -> None:
    return None


def test_counts_what_the_simulator_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "World", Recorded)
    events = generate("bursts", seed=3, scale=0.2, duration_s=240.0)
    told = simulator.simulate(events, simulator.Options(profile="sprites-cpu", max_gpus=3))
    world, clock = Recorded.last, Clock()
    house = House(clock)
    for at_s, tell in world.heard:
        clock.now_s = at_s
        tell(house)
    clock.now_s = events[-1].time_s
    house.now()
    house.finish()

    assert told["moves"] > 0
    assert told["queued_s"] > 0
    assert told["beyond_capacity"] > 0
    assert house.meter.latencies_s == world.meter.latencies_s
    assert house.meter.ttfc_s == world.meter.ttfc_s
    assert house.meter.moves == world.meter.moves
    for name in ("active_s", "queued_s", "beyond_s", "played_s", "stalled_s", "continuous_play_ratio"):
        assert getattr(house.meter, name) == pytest.approx(getattr(world.meter, name)), name


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def house(clock: Clock) -> House:
    """With two workers: 0.3 s a session, three of them keep up."""
    house = House(clock)
    for worker in ("w-1", "w-2"):
        house.told(worker, [0.0, 0.3, 0.6, 0.9, 1.2], 3)
    return house


def test_a_session_that_loses_its_worker_waits_again(house: House, clock: Clock) -> None:
    session = house.arrive("s")
    house.activate(session)
    house.owned_by(session, "w-1")
    clock.now_s = 4.0
    house.owned_by(session, "")
    clock.now_s = 7.0
    house.owned_by(session, "w-2")
    clock.now_s = 10.0
    house.now()
    assert house.meter.queued_s == pytest.approx(3.0)
    assert house.meter.moves == 0
    assert max(house.meter.worst) == pytest.approx(3.0)
    house.owned_by(session, "w-1")
    assert house.meter.moves == 1


@pytest.mark.parametrize("refused", [True, False])
def test_what_is_not_served_counts_as_refused_until_its_user_goes(
    house: House, clock: Clock, refused: bool
) -> None:
    session = house.arrive("s")
    house.activate(session)
    house.owned_by(session, "w-1")
    house.deliver(session, 0.0, 1.5)
    clock.now_s = 10.0
    house.give_up(session, refused=refused)
    clock.now_s = 30.0
    house.pause(session)
    clock.now_s = 60.0
    house.activate(session)
    clock.now_s = 70.0
    house.depart(session)
    assert house.meter.refusals == refused
    assert (house.meter.active, house.meter.queued, house.meter.refused) == (0, 0, 0)
    assert house.meter.refused_s == pytest.approx(30.0)
    assert house.meter.beyond_s == pytest.approx(30.0)
    assert house.meter.continuous_play_ratio == pytest.approx(1.5 / 40.0)
    assert house.worker("w-1").active == 0


def test_more_than_a_worker_keeps_up_with_is_beyond_capacity_by_the_target_too(clock: Clock) -> None:
    house = House(clock, target_s=0.7)
    house.told("w-1", [0.0, 0.3, 0.6, 0.9, 1.2], 3)
    for name in ("a", "b", "c"):
        session = house.arrive(name)
        house.activate(session)
        house.owned_by(session, "w-1")
    clock.now_s = 2.0
    house.now()
    assert house.meter.beyond_s == pytest.approx(2.0)
    house.told("w-1", [0.0, 0.1, 0.2, 0.3, 0.4], 12)
    clock.now_s = 3.0
    house.now()
    assert house.meter.beyond_s == pytest.approx(2.0)
    assert dict(house.meter.worst) == pytest.approx({0.9: 2.0, 0.3: 1.0})
