"""The autoscaler's plans, driven through made-up days of demand, crashes, hangs and silence.

The policies' own behaviour is searched in tests/simulation/test_policies.py; here is what is done about it.
"""

import math
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.autoscaler.controls import Controls
from services.autoscaler.hanging import Deadlines
from services.autoscaler.outlook import Leaving, Terms
from services.autoscaler.plan import LOAD_STALE_S, History, Limits, Plan, Seen, plan
from services.autoscaler.policies.registry import POLICIES, named
from services.autoscaler.policies.view import View
from services.autoscaler.provider import Member
from services.autoscaler.supply import Patience
from shared.contracts.fleet import FleetLoad, WorkerLoad

CONTROLS = Controls(minimum=1, maximum=4)
LIMITS = Limits(Terms(boot_s=2.0), Deadlines(start_s=60.0, silent_s=10.0), Patience(3, 100.0))
CAPACITY = 3
# For the load of now, down again once it was too much for ten boot times.
PLAIN = {"forecast": False, "hold_boots": 10.0}


class Fleet:
    """Workers, placement and provider that do what the plan says, one step per second. A worker that was
    started is ready with the next step.
    """

    def __init__(
        self, controls: Controls = CONTROLS, *, policy: str = "turboserve", node_size: int = 1, **given: Any
    ) -> None:
        self.controls = controls
        self.policy = named(policy, given or PLAIN)
        self.limits = msgspec.structs.replace(LIMITS, terms=Terms(node_size, 2.0))
        self.now = 1000.0
        self.history = History(Leaving(self.now))
        self.members: dict[str, Member] = {}
        self.by_hand: list[str] = []
        self.by_operator: set[str] = set()
        self.starts: list[float] = []
        self.booting: set[str] = set()
        self.hung: set[str] = set()
        self.never_ready = False
        self.named: set[str] = set()
        self.gone: list[str] = []

    def step(self, demand: int | None, holding: tuple[str, ...] = (), crashes: int = 0) -> Plan:
        """`demand` None: placement is silent. `holding`: workers with paused copies."""
        self.now += 1.0
        for worker in list(self.members)[:crashes]:
            self._crash(worker)
        told = plan(
            self._seen(demand, holding), self.history, self.policy, self.controls, self.limits, self.now
        )
        self.history = told.history
        self.named = set(told.steps.leaving.draining)
        self.booting.clear()
        for worker in (*told.steps.let_go, *told.steps.stop):
            self.gone.append(worker)
            self._end(worker)
        for worker in told.steps.kill:
            self._crash(worker)
        for _ in range(told.steps.start):
            self._start()
        return told

    def settle(self, demand: int, steps: int = 5) -> Plan:
        """So that what was started is ready, and what drains is let go."""
        return [self.step(demand) for _ in range(steps)][-1]

    def _start(self) -> None:
        size = self.limits.terms.node_size
        node = f"node-{len(self.starts)}" if size > 1 else ""
        workers = [f"w-{len(self.starts) * size + n}" for n in range(size)]
        self.members |= {worker: Member(worker, "alive", self.now, node) for worker in workers}
        self.booting |= set(workers)
        self.history = self.history.ordered(workers, self.now)
        self.starts.append(self.now)
        if self.never_ready:
            self.hung |= set(workers)

    def _crash(self, worker: str) -> None:
        in_vain = worker in self.history.knowledge.ordered
        self._end(worker)
        self.history = self.history.crashed(self.now, in_vain=in_vain)

    def _end(self, worker: str) -> None:
        del self.members[worker]
        self.hung.discard(worker)
        self.history = self.history.ended(worker, self.now)

    def _seen(self, demand: int | None, holding: tuple[str, ...]) -> Seen:
        members = tuple(self.members.values())
        if demand is None:
            return Seen(members, load([], 0), self.now - LOAD_STALE_S - 1)
        heard = [w for w in (*self.members, *self.by_hand) if w not in self.hung]
        free = [w for w in heard if self.state(w) == "ready"]
        active = {w: min(CAPACITY, max(0, demand - n * CAPACITY)) for n, w in enumerate(free)}
        workers = [
            WorkerLoad(w, self.state(w), CAPACITY, active.get(w, 0), active.get(w, 0) + (w in holding))
            for w in heard
        ]
        return Seen(members, load(workers, demand), self.now)

    def state(self, worker: str) -> str:
        """As placement says it."""
        if worker in self.booting:
            return "starting"
        return "draining" if worker in self.named | self.by_operator else "ready"


def load(workers: list[WorkerLoad], demand: int) -> FleetLoad:
    active = sum(w.active for w in workers)
    return FleetLoad(
        placement="placement-1",
        active=active,
        queued=max(0, demand - active),
        paused=0,
        capacity=sum(w.capacity for w in workers),
        workers=workers,
        models=[],
        sent_at=0.0,
    )


moments = st.tuples(
    st.one_of(st.none(), st.integers(0, 20)), st.integers(0, 4), st.sampled_from((0, 0, 0, 0, 1, 4))
)
policies = st.sampled_from(sorted(POLICIES))


@given(policies, st.lists(moments, max_size=60), st.booleans())
def test_size_stays_within_its_bounds(
    policy: str, day: list[tuple[int | None, int, int]], frozen: bool
) -> None:
    fleet = Fleet(msgspec.structs.replace(CONTROLS, frozen=frozen), policy=policy, hold_s=2.0)
    for demand, busy, crashes in day:
        told = fleet.step(demand, tuple(list(fleet.members)[:busy]), crashes)
        assert CONTROLS.minimum <= told.desired <= CONTROLS.maximum
        assert len(fleet.members) <= CONTROLS.maximum
        assert 0 <= told.ask_again_s < math.inf
        assert told.reason


@given(st.lists(moments, max_size=80))
def test_only_workers_that_placement_calls_drained_and_empty_are_let_go(
    day: list[tuple[int | None, int, int]],
) -> None:
    fleet = Fleet(forecast=False, hold_boots=0.5)
    for demand, busy, _ in day:
        holding = tuple(list(fleet.members)[:busy])
        drained = set(fleet.named)
        told = fleet.step(demand, holding)
        assert not set(told.steps.let_go) & set(holding)
        assert set(told.steps.let_go) <= drained
        assert len(fleet.members) >= CONTROLS.minimum
        assert demand is not None or not told.steps.let_go, "nobody is let go while placement is silent"


@given(policies, st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_a_recorded_decision_is_taken_again(policy: str, demands: list[int]) -> None:
    fleet = Fleet(policy=policy, hold_s=2.0)
    kind: Any = POLICIES[policy]
    remembered: Any = get_type_hints(kind.decide)["memory"]
    for demand in demands:
        decided = fleet.step(demand).decided
        assert decided is not None
        record = msgspec.json.encode((fleet.policy, decided.view, decided.memory))
        again, view, memory = msgspec.json.decode(record, type=tuple[kind, View, remembered])
        assert again.decide(view, memory) == decided.decision


def test_without_placement_the_minimum_is_started() -> None:
    fleet = Fleet(msgspec.structs.replace(CONTROLS, minimum=2))
    assert fleet.step(None).steps.start == 2
    assert fleet.step(None).steps.start == 0


def test_a_queued_session_gets_its_worker_at_once() -> None:
    fleet = Fleet()
    fleet.settle(CAPACITY)
    told = fleet.step(CAPACITY + 1)
    assert (told.steps.start, told.desired) == (1, 2)


def test_one_worker_must_do_until_it_has_told_its_capacity() -> None:
    fleet = Fleet(msgspec.structs.replace(CONTROLS, minimum=0))
    told = fleet.step(12)
    assert (told.steps.start, told.desired) == (1, 1)
    assert "no worker has told its capacity yet" in told.reason
    fleet.step(12)
    assert fleet.step(12).desired == 4


def test_who_is_not_needed_is_drained_first_and_let_go_once_empty() -> None:
    fleet = Fleet()
    fleet.settle(9)
    assert len(fleet.members) == 3
    paused = ("w-1", "w-2")
    while len(fleet.named) < 2:
        told = fleet.step(0, holding=paused)
        assert not told.steps.let_go
    assert fleet.named == {"w-1", "w-2"}
    for _ in range(5):
        assert not fleet.step(0, holding=paused).steps.let_go, "they hold copies"
    assert set(fleet.step(0).steps.let_go) == {"w-1", "w-2"}
    assert set(fleet.members) == {"w-0"}


def test_what_drains_is_taken_back_before_anything_is_started() -> None:
    fleet = Fleet()
    fleet.settle(9)
    while not fleet.named:
        fleet.step(0, holding=("w-1", "w-2"))
    started = len(fleet.starts)
    fleet.step(9, holding=("w-1", "w-2"))
    assert (fleet.named, len(fleet.starts)) == (set(), started)
    assert fleet.settle(9).desired == 3
    assert len(fleet.members) == 3


def test_one_that_boots_is_given_back_at_once() -> None:
    fleet = Fleet(forecast=False, hold_boots=0.01, hold_spells=0.0)
    fleet.settle(CAPACITY)
    fleet.step(CAPACITY + 1)
    assert fleet.booting == {"w-1"}
    assert fleet.step(CAPACITY).steps.stop == ("w-1",)


def test_whole_nodes_come_and_go() -> None:
    fleet = Fleet(Controls(1, 6), node_size=2, forecast=False, hold_boots=1.0)
    assert fleet.settle(7).desired == 4
    assert [m.node for m in fleet.members.values()] == ["node-0", "node-0", "node-1", "node-1"]
    while not fleet.named:
        fleet.step(1, holding=("w-3",))
    assert fleet.named == {"w-2", "w-3"}
    assert not fleet.step(1, holding=("w-3",)).steps.let_go, "its neighbour holds a copy"
    assert set(fleet.step(1).steps.let_go) == {"w-2", "w-3"}


def test_workers_started_by_hand_serve_but_are_nobodys_to_let_go() -> None:
    fleet = Fleet()
    fleet.settle(0)
    fleet.by_hand = ["own-1", "own-2"]
    told = fleet.settle(9)
    assert (told.desired, len(fleet.members)) == (1, 1), "two by hand and one of its own carry nine"
    told = fleet.settle(0, steps=30)
    assert (told.desired, fleet.named, len(fleet.members)) == (1, set(), 1)
    assert "2 started by hand" in told.reason


def test_workers_of_another_model_and_their_sessions_are_none_of_this_fleets() -> None:
    fleet = Fleet()
    fleet.settle(3)
    seen = fleet._seen(3, ())
    assert seen.load is not None
    ours = [msgspec.structs.replace(worker, model="sprites") for worker in seen.load.workers]
    other = WorkerLoad("own-1", "ready", 9, 5, 5, "wan")
    told = msgspec.structs.replace(load([*ours, other], 8), placement="placement-2")
    for _ in range(2):
        planned = plan(
            Seen(seen.members, told, fleet.now), fleet.history, fleet.policy, CONTROLS, LIMITS, fleet.now
        )
        fleet.history = planned.history
    assert planned.decided is not None
    view = planned.decided.view
    assert (view.active, [worker.kept for worker in view.workers]) == (3, [False])


def test_a_worker_that_an_operator_drains_is_not_counted_nor_taken_back() -> None:
    fleet = Fleet(msgspec.structs.replace(CONTROLS, maximum=2))
    fleet.settle(4)
    fleet.by_operator = {"w-0"}
    told = fleet.settle(4)
    assert told.steps.start == 0, "it is still there, and two are the most"
    fleet._end("w-0")
    assert fleet.step(4).steps.start == 1


def test_a_frozen_size_stays_and_who_crashes_is_replaced() -> None:
    fleet = Fleet()
    fleet.settle(6)
    fleet.controls = msgspec.structs.replace(CONTROLS, frozen=True)
    for demand in (12, 0):
        told = fleet.settle(demand, steps=30)
        assert (told.desired, len(fleet.members), told.steps.start) == (2, 2, 0)
    assert "drain" in told.would or "let go" in told.would
    fleet.step(0, crashes=1)
    assert fleet.settle(0).desired == 2
    assert len(fleet.members) == 2
    fleet.controls = CONTROLS
    assert fleet.settle(12).desired == 4


def test_a_dry_run_does_nothing_and_says_what_it_would() -> None:
    fleet = Fleet(msgspec.structs.replace(CONTROLS, dry_run=True))
    told = fleet.settle(9)
    assert not told.steps
    assert told.would == "start 1 worker"
    assert not fleet.members


@given(st.lists(st.sampled_from((0, 1, 4)), min_size=1, max_size=200))
def test_replacement_is_bounded(crashes: list[int]) -> None:
    fleet = Fleet()
    fleet.step(0)
    for count in crashes:
        fleet.step(0, crashes=count)
        recent = [at for at in fleet.starts[1:] if at > fleet.now - LIMITS.patience.restart_window_s]
        assert len(recent) <= LIMITS.patience.restart_limit + 1


def test_a_worker_that_always_ends_is_given_up_with_a_reason() -> None:
    fleet = Fleet()
    fleet.step(0)
    told = fleet.step(0, crashes=1)
    pauses: list[float] = []
    while not told.failed and len(pauses) < 9:
        assert told.steps.start == 0
        pauses.append(told.ask_again_s)
        while not told.steps.start:
            told = fleet.step(0)
        told = fleet.step(0, crashes=1)
    assert pauses == [0.5, 1.0, 1.0], "and at least every second"
    assert "none of the last 4 workers that were started was ever ready" in told.reason
    fleet.now += LIMITS.patience.restart_window_s
    assert fleet.step(0).steps.start == 1, "it tries again once the window has passed"


def test_workers_that_are_never_ready_are_tried_ever_more_seldom_and_one_at_a_time() -> None:
    fleet = Fleet(msgspec.structs.replace(CONTROLS, minimum=4))
    fleet.never_ready = True
    told = fleet.step(0)
    assert told.steps.start == 4
    for _ in range(2 * 3600):
        told = fleet.step(0)
    assert "was ever ready" in told.reason
    trials = fleet.starts[4:]
    assert len(trials) <= 6, "in two hours, of workers that take their minute each"
    assert all(len({at for at in trials if at == once}) == 1 for once in trials)
    fleet.never_ready = False
    while not fleet.members:
        fleet.step(0)
    assert fleet.settle(0).desired == 4
    assert len(fleet.members) == 4, "one that is ready clears it"


@pytest.mark.parametrize("silent_after_s", [None, 5])
def test_a_worker_that_hangs_is_ended_and_replaced(silent_after_s: int | None) -> None:
    fleet = Fleet()
    fleet.step(0)
    if silent_after_s is None:
        fleet.hung.add("w-0")
    else:
        fleet.settle(0, silent_after_s)
        fleet.hung.add("w-0")
    told = fleet.step(0)
    while not told.steps.kill:
        told = fleet.step(0)
    deadlines = LIMITS.deadlines
    expected_s = deadlines.start_s if silent_after_s is None else silent_after_s + deadlines.silent_s
    assert fleet.now - fleet.starts[0] == pytest.approx(expected_s, abs=2.0)
    fleet.settle(0)
    assert set(fleet.members) == {"w-1"}


def test_nobody_is_blamed_while_placement_is_silent() -> None:
    fleet = Fleet()
    fleet.settle(0)
    for _ in range(100):
        assert not fleet.step(None).steps.kill
    fleet.hung.add("w-0")
    assert not fleet.step(0).steps.kill, "a placement that has just come back has not heard everybody yet"


def test_workers_of_before_are_given_time_to_be_heard() -> None:
    """After a takeover the provider tells of workers that began long ago."""
    fleet = Fleet()
    fleet.members["old"] = Member("old", "alive", fleet.now - 10_000.0)
    fleet.hung.add("old")
    assert not fleet.step(0).steps.kill
    assert not fleet.settle(0, steps=30).steps.stop, "nobody knows whether it ever was ready"
    assert fleet.gone == []
