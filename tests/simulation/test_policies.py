"""What every policy keeps to, searched by Hypothesis: capacity, room, moves that end and help, no flapping,
decisions that are functions of their recorded inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from services.autoscaler.policies import registry as fleet_policies
from services.autoscaler.policies import view as fleet
from services.autoscaler.policies.forecast import Rate, first
from services.autoscaler.policies.turboserve import Turboserve
from services.placement.policies import registry as placement_policies
from services.placement.policies.view import (
    Act,
    Decision,
    Memory,
    Move,
    Place,
    Refuse,
    Session,
    StepDown,
    StepUp,
    Suspend,
    View,
    Worker,
)

NAMES = sorted(placement_policies.POLICIES)
PINNED = {"fixed-rr", "fixed-ll"}
BALANCING = {"paper", "turboserve"}

every_policy = pytest.mark.parametrize("name", NAMES)
seconds = st.floats(0.01, 1.0).map(lambda value: round(value, 3))


@st.composite
def workers(draw: st.DrawFn, number: int) -> Worker:
    slots = draw(st.integers(1, 5))
    latency_s, curve = 0.0, [0.0]
    for step in draw(st.lists(seconds, min_size=slots, max_size=slots)):
        latency_s = round(latency_s + step, 3)
        curve.append(latency_s)
    return Worker(
        worker=f"w{number}",
        kind=draw(st.sampled_from(["h100", "l40s"])),
        state=draw(st.sampled_from(["ready", "ready", "ready", "draining", "starting", "silent"])),
        capacity=draw(st.integers(1, slots)),
        slots=slots,
        latency_s=tuple(curve),
        price_per_s=draw(st.sampled_from([1.0, 0.4])),
        group=draw(st.sampled_from(["", "", "", "14B"])),
    )


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any fleet, with any sessions that could be on it."""
    fleet_of = tuple(draw(workers(n)) for n in range(draw(st.sampled_from([3, 1, 2, 0, 4, 6]))))
    room = {worker.worker: worker.slots for worker in fleet_of}
    able = {group: [""] + [w.worker for w in fleet_of if w.group == group] for group in ("", "14B")}
    sessions = []
    for number in range(draw(st.integers(0, 14))):
        group = draw(st.sampled_from(["", "", "14B"]))
        where, active = draw(st.sampled_from(["", *able[group]])), draw(st.sampled_from([True, True, False]))
        if active and room.get(where, 0) == 0:
            where = ""
        room[where] = room.get(where, 0) - active
        sessions.append(
            Session(
                session=f"s{number}",
                active=active,
                since_s=float(draw(st.integers(0, 100))),
                worker=where,
                home=where or draw(st.sampled_from(able[group])),
                move_cost_s=draw(st.sampled_from([0.0, 0.03, 0.3])),
                tenant=draw(st.sampled_from(["a", "b"])),
                priority=draw(st.integers(0, 1)),
                group=group,
            )
        )
    freed = draw(st.sampled_from([0.0, 0.5]))
    return View(100.0, fleet_of, tuple(sessions), chunk_s=0.75, freed_per_s=freed)


class Outcome:
    """A view with a decision's acts carried out, checked on the way."""

    def __init__(self, view: View, decision: Decision) -> None:
        self.view, self.decision = view, decision
        self.workers = {worker.worker: worker for worker in view.workers}
        self.sessions = {session.session: session for session in view.sessions}
        self.where = {s.session: s.worker for s in view.sessions if s.active}
        self.refused: set[str] = set()
        self.worst_s = [self.worst()]
        for act in decision.acts:
            self._carry_out(act)

    def _carry_out(self, act: Act) -> None:
        session = self.sessions[act.session]
        assert not isinstance(act, StepDown | StepUp), "nobody here can be stepped"
        if isinstance(act, Suspend):
            assert not session.active
            assert session.worker == act.worker
            return
        if isinstance(act, Refuse):
            assert self.where[act.session] == ""
            self.refused.add(act.session)
            return
        before = act.source if isinstance(act, Move) else ""
        target = self.workers[act.target if isinstance(act, Move) else act.worker]
        assert self.where[act.session] == before
        assert target.state == "ready"
        assert target.group == session.group
        assert target.worker != before
        self.where[act.session] = target.worker
        assert self.load(target) <= target.slots
        rebalances = isinstance(act, Move) and self.workers[act.source].state == "ready"
        if rebalances:
            assert self.load(target) <= target.capacity
        else:
            self.worst_s.clear()
        self.worst_s.append(self.worst())

    def load(self, worker: Worker) -> int:
        return sum(where == worker.worker for where in self.where.values())

    def worst(self) -> float:
        ready = (worker for worker in self.view.workers if worker.state == "ready")
        return max((worker.latency_s[self.load(worker)] for worker in ready), default=0.0)

    def left_out(self) -> list[Session]:
        return [self.sessions[s] for s, where in self.where.items() if not where and s not in self.refused]


def decide(name: str, view: View, **given_settings: Any) -> Decision:
    return placement_policies.named(name, given_settings).decide(view, Memory())


def outcomes(view: View) -> Iterator[tuple[str, Outcome]]:
    """What each policy makes of the same view: to draw one takes longer than to decide."""
    for name in NAMES:
        note(name)
        yield name, Outcome(view, decide(name, view))


@given(view=views())
@settings(max_examples=200)
def test_acts_can_be_carried_out_and_stay_within_slots(view: View) -> None:
    for _ in outcomes(view):
        pass


@given(view=views(), wait=st.sampled_from([None, 3.0]))
def test_ours_never_takes_a_worker_above_its_capacity(view: View, wait: float | None) -> None:
    outcome = Outcome(view, decide("turboserve", view, longest_wait_s=wait))
    for worker in view.workers:
        before = sum(s.active and s.worker == worker.worker for s in view.sessions)
        assert outcome.load(worker) <= max(worker.capacity, before)


@given(view=views())
@settings(max_examples=200)
def test_no_active_session_is_left_out_while_there_is_room(view: View) -> None:
    """For pinned ones: room on the worker it is pinned to."""
    for name, outcome in outcomes(view):
        told = {waiting.session for waiting in outcome.decision.waiting}
        for session in outcome.left_out():
            assert session.session in told
            for worker in view.workers:
                mine = name not in PINNED or session.home == worker.worker
                if worker.state == "ready" and worker.group == session.group and mine:
                    assert outcome.load(worker) >= worker.capacity


@given(view=views())
@settings(max_examples=200)
def test_rebalancing_never_raises_the_worst_latency(view: View) -> None:
    for name, outcome in outcomes(view):
        # What is left in the list began after the last act that had to be.
        assert outcome.worst_s[-1] <= outcome.worst_s[0] + 1e-9
        if name not in BALANCING:
            moved = [act for act in outcome.decision.acts if isinstance(act, Move)]
            assert all(outcome.workers[act.source].state == "draining" for act in moved)


@given(view=views())
def test_ours_has_nothing_left_to_move_once_it_has(view: View) -> None:
    decision = decide("turboserve", view)
    outcome = Outcome(view, decision)
    after = [
        msgspec.structs.replace(
            s, worker=outcome.where[s.session] if s.active else "", home=s.worker or s.home
        )
        for s in view.sessions
        if s.session not in outcome.refused
    ]
    again = decide("turboserve", msgspec.structs.replace(view, sessions=tuple(after)))
    assert [act for act in again.acts if isinstance(act, Move | Place)] == []


@given(view=views())
@settings(max_examples=200)
def test_a_recorded_decision_is_taken_again(view: View) -> None:
    for name in NAMES:
        policy = placement_policies.named(name, {})
        decision = policy.decide(view, Memory(3))
        record = msgspec.json.encode((policy, view, Memory(3), decision))
        kind: Any = placement_policies.POLICIES[name]
        shape: Any = tuple[kind, View, Memory, Decision]
        again, seen, memory, told = msgspec.json.decode(record, type=shape)
        assert again.decide(seen, memory) == told == decision, name


@given(view=views(), extra=st.integers(1, 5))
def test_priority_goes_first_and_tenants_share(view: View, extra: int) -> None:
    """With as many waiting from each of two tenants, neither gets two places more than the other."""
    ready = [w for w in view.workers if w.state == "ready" and w.group == ""]
    assume(ready)
    waiting = [
        Session(f"{tenant}{n}", active=True, since_s=float(tenant == "b"), tenant=tenant)
        for tenant in ("a", "b")
        for n in range(extra * 2)
    ]
    urgent = Session("urgent", active=True, since_s=99.0, priority=1)
    decision = decide("turboserve", View(100.0, tuple(ready), (*waiting, urgent)))
    placed = [act.session for act in decision.acts if isinstance(act, Place)]
    assert placed[0] == "urgent"
    counts = [sum(session.startswith(tenant) for session in placed[1:]) for tenant in ("a", "b")]
    assert abs(counts[0] - counts[1]) <= 1


class Cloud:
    """A fleet that does as it is told, with sessions spread evenly, for policies of its size."""

    def __init__(
        self, name: str, boot_s: float, node_size: int, maximum: int, spare: int = 0, **given_settings: Any
    ) -> None:
        self.spare = spare
        self.policy = fleet_policies.named(name, given_settings)
        self.boot_s, self.node_size, self.maximum = boot_s, node_size, maximum
        self.workers: dict[str, fleet.Worker] = {}
        self.names = 0
        self.memory: Any = None
        self.counts = fleet.Counts()
        self.active = 0

    def step(self, now_s: float, active: int, idle: int, *, frozen: bool = False) -> fleet.Decision:
        for name, worker in self.workers.items():
            if worker.state == "booting" and worker.ready_at_s <= now_s:
                self.workers[name] = msgspec.structs.replace(worker, state="ready")
        more = active - self.active
        self.counts = msgspec.structs.replace(
            self.counts,
            activated=self.counts.activated + max(0, more),
            idled=self.counts.idled + max(0, -more),
        )
        self.active = active
        view = self.view(now_s, active, idle, frozen)
        decision = self.policy.decide(view, self.memory)
        record = msgspec.json.decode(msgspec.json.encode(view), type=fleet.View)
        assert self.policy.decide(record, self.memory) == decision
        self.memory = decision.memory
        self.apply(view, decision.change, now_s)
        return decision

    def view(self, now_s: float, active: int, idle: int, frozen: bool) -> fleet.View:
        ready = [w for w in self.workers.values() if w.state == "ready"]
        shares = {w.worker: active // len(ready) + (n < active % len(ready)) for n, w in enumerate(ready)}
        loads = tuple(shares.get(worker, 0) for worker in self.workers)
        return fleet.View(
            now_s=now_s,
            workers=tuple(self.workers.values()),
            loads=loads,
            kinds=(fleet.Kind("h100", 2, (0.0, 0.3, 0.55), 1.0, self.boot_s),),
            active=active,
            queued=0 if ready else active,
            idle=idle,
            counts=self.counts,
            rho_max=max(loads, default=0) / 2,
            minimum=0,
            maximum=self.maximum,
            node_size=self.node_size,
            spare=self.spare,
            frozen=frozen,
        )

    def apply(self, view: fleet.View, change: fleet.Change, now_s: float) -> None:
        loads = dict(zip(self.workers, view.loads, strict=True))
        named = [*change.undrain, *change.drain, *change.release]
        assert len(named) == len(set(named))
        for worker in change.undrain:
            assert self.workers[worker].state == "draining"
            self.workers[worker] = msgspec.structs.replace(self.workers[worker], state="ready")
        for worker in change.drain:
            assert self.workers[worker].state != "draining"
            self.workers[worker] = msgspec.structs.replace(self.workers[worker], state="draining")
        for worker in change.release:
            assert loads[worker] == 0
            del self.workers[worker]
        for _ in range(sum(change.start.values())):
            self.names += 1
            name, node = f"w{self.names}", f"n{(self.names - 1) // self.node_size}"
            booting = fleet.Worker(name, "h100", "booting", now_s, node, now_s + self.boot_s)
            self.workers[name] = booting if self.boot_s else msgspec.structs.replace(booting, state="ready")
        assert len(self.workers) <= self.maximum
        for node in {worker.node for worker in self.workers.values()}:
            assert sum(worker.node == node for worker in self.workers.values()) == self.node_size

    def staying(self) -> int:
        return sum(worker.state != "draining" for worker in self.workers.values())


demands = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=40
)
"""(seconds since the last, active, idle)."""


@every_policy
@given(demand=demands, boot_s=st.sampled_from([0.0, 30.0]), node_size=st.sampled_from([1, 4]))
@settings(max_examples=40)
def test_a_fleet_keeps_to_its_limits_and_to_whole_nodes(
    name: str, demand: list[tuple[int, int, int]], boot_s: float, node_size: int
) -> None:
    cloud, now_s = Cloud(name, boot_s, node_size, maximum=12), 0.0
    for past_s, active, idle in demand:
        now_s += past_s
        decision = cloud.step(now_s, active, idle)
        assert 0 <= decision.desired <= 12
        assert cloud.staying() <= 12


@pytest.mark.parametrize(("name", "hold_s"), [("paper", 20.0), ("hpa", 300.0), ("turboserve", 30.0)])
@given(demand=demands)
@settings(max_examples=60)
def test_a_fleet_does_not_flap(name: str, hold_s: float, demand: list[tuple[int, int, int]]) -> None:
    """Within its hold (ours: a boot time) after growing, a fleet doesn't shrink: one reversal at most."""
    given_settings: dict[str, Any] = {"hold_s": hold_s} if name == "paper" else {}
    cloud, now_s = Cloud(name, 30.0, 1, maximum=12, **given_settings), 0.0
    grew_s, before = -1000.0, None
    for past_s, active, idle in demand:
        for _ in range(past_s):
            now_s += 1.0
            desired = cloud.step(now_s, active, idle).desired
            if before is not None and desired > before:
                grew_s = now_s
            elif before is not None and desired < before:
                assert now_s - grew_s >= hold_s - 1e-6
            before = desired


@every_policy
def test_a_frozen_fleet_stays(name: str) -> None:
    cloud = Cloud(name, 0.0, 1, maximum=12)
    cloud.step(0.0, 6, 0)
    cloud.step(20.0, 6, 0)
    size = cloud.staying()
    for active in (24, 0, 3):
        cloud.step(400.0 + active, active, 0, frozen=True)
        assert cloud.staying() == size


@pytest.mark.parametrize("name", ["paper", "turboserve"])
def test_spare_workers_are_kept_and_don_t_add_up(name: str) -> None:
    bare, spare = Cloud(name, 0.0, 1, maximum=12), Cloud(name, 0.0, 1, maximum=12, spare=2)
    for now_s in range(200):
        bare.step(float(now_s), 6, 0)
        spare.step(float(now_s), 6, 0)
    assert spare.staying() == bare.staying() + 2


def test_what_drains_is_taken_back_before_anything_is_bought() -> None:
    cloud = Cloud("turboserve", 30.0, 1, maximum=12, forecast=False)
    cloud.workers = {f"w{n}": fleet.Worker(f"w{n}", "h100", "ready", 0.0, f"n{n}") for n in range(3)}
    cloud.workers["w2"] = msgspec.structs.replace(cloud.workers["w2"], state="draining")
    decision = cloud.step(1.0, 5, 0)
    assert decision.change.undrain == ("w2",)
    assert cloud.staying() == decision.desired


def test_less_of_a_worker_is_planned_for_where_sessions_should_be_alone() -> None:
    sizes = []
    for fill in (1.0, 0.5):
        cloud = Cloud("turboserve", 0.0, 1, maximum=12, fill=fill)
        cloud.step(0.0, 6, 0)
        sizes.append(cloud.staying())
    assert sizes == [3, 6]
    with pytest.raises(msgspec.ValidationError):
        fleet_policies.named("turboserve", {"fill": 0.0})


@pytest.mark.parametrize(("hold_spells", "spell_s", "held_s"), [(0.1, 1200.0, 120.0), (0.1, 100.0, 30.0)])
def test_a_worker_is_held_for_its_boot_or_for_a_part_of_a_spell(
    hold_spells: float, spell_s: float, held_s: float
) -> None:
    policy = Turboserve(hold_spells=hold_spells)
    learned = msgspec.structs.replace(
        first(0.0, fleet.Counts(), 1, 0), pause=Rate(1.0, spell_s), leave=Rate(0.0, 1.0)
    )
    assert policy.hold_s(learned, 30.0) == pytest.approx(held_s)
    never_ends = msgspec.structs.replace(learned, pause=Rate(0.0, 1.0))
    assert policy.hold_s(never_ends, 30.0) == pytest.approx(300.0)
    assert policy.hold_s(never_ends, 0.0) == 0.0
