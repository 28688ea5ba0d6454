"""The autoscaler's decisions, driven through made-up days of demand, crashes and silence."""

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.autoscaler.plan import LOAD_STALE_S, History, Limits, Member, Plan, Seen, plan
from shared.contracts.fleet import FleetLoad, WorkerLoad

LIMITS = Limits(
    minimum=1,
    maximum=4,
    hold_s=20.0,
    start_deadline_s=60.0,
    silent_s=10.0,
    restart_limit=3,
    restart_window_s=100.0,
)
# A hold so short that made-up days reach the end of many.
HASTY = msgspec.structs.replace(LIMITS, hold_s=3.0)
CAPACITY = 3


class Fleet:
    """A fleet that does what the plan says, at once, one step per second."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.now = 1000.0
        self.history = History()
        self.started_at: dict[str, float] = {}
        self.starts: list[float] = []
        self.desired: list[int] = []
        self.hung: set[str] = set()

    def step(self, demand: int | None, busy: int = 0, crashes: int = 0) -> Plan:
        """`demand` None: placement is silent. `busy`: how many of the oldest workers hold copies."""
        self.now += 1.0
        for worker in list(self.started_at)[:crashes]:
            self._end(worker)
            self.history = self.history.crashed(self.now)
        decision = plan(self._seen(demand, busy), self.history, self.limits, self.now)
        self.history = decision.history
        self.desired.append(decision.desired)
        for worker in (*decision.drain, *decision.kill):
            self._end(worker)
        self.history = msgspec.structs.replace(
            self.history, crashes=self.history.crashes + (self.now,) * len(decision.kill)
        )
        for _ in range(decision.start):
            self.started_at[f"w-{len(self.starts)}"] = self.now
            self.starts.append(self.now)
        return decision

    def _end(self, worker: str) -> None:
        del self.started_at[worker]
        self.hung.discard(worker)

    def _seen(self, demand: int | None, busy: int) -> Seen:
        members = tuple(Member(w, "alive", at) for w, at in self.started_at.items())
        if demand is None:
            return Seen(members, load([], 0), self.now - LOAD_STALE_S - 1)
        holding = list(self.started_at)[:busy]
        heard = [
            WorkerLoad(w, "ready", CAPACITY, active=0, copies=int(w in holding))
            for w in self.started_at
            if w not in self.hung
        ]
        return Seen(members, load(heard, demand), self.now)


def load(workers: list[WorkerLoad], demand: int) -> FleetLoad:
    queued = max(0, demand - sum(w.capacity for w in workers))
    return FleetLoad(
        placement="placement-1",
        active=demand - queued,
        queued=queued,
        paused=0,
        capacity=sum(w.capacity for w in workers),
        workers=workers,
        models=[],
        sent_at=0.0,
    )


moments = st.tuples(
    st.one_of(st.none(), st.integers(0, 20)), st.integers(0, 4), st.sampled_from((0, 0, 0, 0, 1, 4))
)


@given(st.lists(moments, max_size=120))
def test_count_stays_within_its_bounds(day: list[tuple[int | None, int, int]]) -> None:
    fleet = Fleet(HASTY)
    for demand, busy, crashes in day:
        decision = fleet.step(demand, busy, crashes)
        assert LIMITS.minimum <= decision.desired <= LIMITS.maximum
        assert len(fleet.started_at) <= LIMITS.maximum
        assert 0 <= decision.ask_again_s < math.inf
        assert decision.reason


@given(st.lists(moments, max_size=120))
def test_only_idle_workers_are_released(day: list[tuple[int | None, int, int]]) -> None:
    fleet = Fleet(HASTY)
    for demand, busy, _ in day:
        holding = list(fleet.started_at)[:busy]
        decision = fleet.step(demand, busy)
        assert not set(decision.drain) & set(holding)
        assert len(fleet.started_at) >= LIMITS.minimum
        assert demand is not None or not decision.drain, "nobody is released while placement is silent"


@given(st.lists(st.integers(0, 20), max_size=200))
def test_does_not_flap(demands: list[int]) -> None:
    """The count falls only when fewer were enough for all of the hold, so at most once per hold."""
    fleet = Fleet(HASTY)
    falls: list[int] = []
    for second, demand in enumerate(demands):
        before = fleet.desired[-1] if fleet.desired else 0
        fleet.step(demand)
        if fleet.desired[-1] < before:
            falls.append(second)
            lately = demands[max(0, second - int(HASTY.hold_s)) : second + 1]
            enough = max(LIMITS.minimum, min(LIMITS.maximum, math.ceil(max(lately) / CAPACITY)))
            assert fleet.desired[-1] >= enough
    assert all(later - earlier >= HASTY.hold_s for earlier, later in itertools.pairwise(falls))


def test_a_queued_session_gets_its_worker_at_once() -> None:
    fleet = Fleet()
    fleet.step(0)
    fleet.step(CAPACITY)
    decision = fleet.step(CAPACITY + 1)
    assert (decision.start, decision.desired) == (1, 2)
    assert "1 of them queued" in decision.reason


def test_shrinks_to_the_minimum_once_demand_has_gone() -> None:
    fleet = Fleet()
    fleet.step(0)
    fleet.step(9)
    assert len(fleet.started_at) == 3
    for _ in range(int(LIMITS.hold_s)):
        assert fleet.step(0).desired == 3
    fleet.step(0)
    assert len(fleet.started_at) == 1


def test_falls_to_the_most_that_was_needed_while_it_held() -> None:
    fleet = Fleet()
    fleet.step(0)
    fleet.step(12)
    for _ in range(int(LIMITS.hold_s)):
        fleet.step(CAPACITY + 1)
    assert fleet.step(0).desired == 2


def test_nobody_is_released_while_placement_is_silent() -> None:
    fleet = Fleet()
    fleet.step(0)
    fleet.step(9)
    for _ in range(int(LIMITS.hold_s)):
        fleet.step(0, busy=3)
    assert fleet.step(0, busy=3).desired == 1
    assert not fleet.step(None).drain, "what was idle when it last spoke may not be so now"
    assert len(fleet.step(0).drain) == 2


def test_asks_again_exactly_when_the_hold_ends() -> None:
    fleet = Fleet()
    fleet.step(0)
    fleet.step(9)
    decision = fleet.step(0)
    assert decision.ask_again_s == LIMITS.hold_s
    fleet.now += decision.ask_again_s - 1.0
    assert fleet.step(0).desired == 1


@given(st.lists(st.sampled_from((0, 1, 4)), min_size=1, max_size=300))
def test_replacement_is_bounded(crashes: list[int]) -> None:
    fleet = Fleet()
    fleet.step(0)
    for count in crashes:
        fleet.step(0, crashes=count)
        recent = [at for at in fleet.starts[1:] if at > fleet.now - LIMITS.restart_window_s]
        assert len(recent) <= LIMITS.restart_limit + 1


def test_a_worker_that_always_ends_is_given_up_with_a_reason() -> None:
    fleet = Fleet()
    fleet.step(0)
    decision = fleet.step(0, crashes=1)
    pauses: list[float] = []
    while not decision.failed and len(pauses) < 9:
        assert decision.start == 0
        pauses.append(decision.ask_again_s)
        while not decision.start:
            decision = fleet.step(0)
        decision = fleet.step(0, crashes=1)
    assert pauses == [0.5, 1.0, 2.0]
    assert "4 workers ended unexpectedly" in decision.reason
    fleet.now += decision.ask_again_s
    assert fleet.step(0).start == 1, "it tries again once the window has passed"


@pytest.mark.parametrize("silent_after_s", [None, 5])
def test_a_worker_that_hangs_is_ended_and_replaced(silent_after_s: int | None) -> None:
    fleet = Fleet()
    fleet.step(0)
    if silent_after_s is not None:
        for _ in range(silent_after_s):
            fleet.step(0)
    fleet.hung.add("w-0")
    decision = fleet.step(0)
    while not decision.kill:
        decision = fleet.step(0)
    expected_s = LIMITS.start_deadline_s if silent_after_s is None else silent_after_s + LIMITS.silent_s
    assert fleet.now - fleet.starts[0] == pytest.approx(expected_s, abs=2.0)
    assert list(fleet.started_at) == ["w-1"] or fleet.step(0).start == 1


def test_nobody_is_blamed_while_placement_is_silent() -> None:
    fleet = Fleet()
    fleet.step(0)
    fleet.step(0)
    for _ in range(100):
        assert not fleet.step(None).kill
    fleet.hung.add("w-0")
    assert not fleet.step(0).kill, "a placement that has just come back has not heard everybody yet"
