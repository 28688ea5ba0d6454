"""A policy never ends its service, whatever the view: names twice, workers nobody knows, clocks that jump,
numbers that aren't any."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from services.autoscaler.policies import registry as fleet_policies
from services.autoscaler.policies import view as fleet
from services.placement.policies import registry as placement_policies
from services.placement.policies.view import Memory, Session, View, Worker

NAMES = sorted(placement_policies.POLICIES)
every_policy = pytest.mark.parametrize("name", NAMES)

names = st.sampled_from(["", "a", "b", "c", "d"])
numbers = st.one_of(st.sampled_from([0.0, 1.0, 0.3, -1.0, 1e300]), st.floats())
maybe = st.one_of(st.none(), numbers)
counts = st.integers(-2, 6)

workers = st.builds(
    Worker,
    worker=names,
    kind=names,
    state=st.sampled_from(["ready", "ready", "draining", "starting", "silent"]),
    capacity=counts,
    slots=st.one_of(counts, st.just(10**12)),
    latency_s=st.lists(numbers, max_size=5).map(tuple),
    price_per_s=numbers,
    group=st.sampled_from(["", "14B"]),
    since_s=numbers,
)
sessions = st.builds(
    Session,
    session=names,
    active=st.booleans(),
    since_s=numbers,
    worker=names,
    home=names,
    move_cost_s=numbers,
    tenant=names,
    priority=counts,
    group=st.sampled_from(["", "14B"]),
    weight=numbers,
    floor_weight=numbers,
    full_weight=numbers,
    avoid=st.lists(names, max_size=2).map(tuple),
    away_cost_s=numbers,
    beat_s=maybe,
)
views = st.builds(
    View,
    now_s=numbers,
    workers=st.lists(workers, max_size=6).map(tuple),
    sessions=st.lists(sessions, max_size=10).map(tuple),
    chunk_s=numbers,
    freed_per_s=numbers,
    spell_s=numbers,
    start_s=numbers,
)
memories = st.builds(Memory, turn=st.integers(-3, 3), uneven_s=maybe, roomy_s=maybe)


@given(view=views, memory=memories, wait_s=maybe)
@settings(max_examples=60)
def test_placement_answers_whatever_it_sees(view: View, memory: Memory, wait_s: float | None) -> None:
    given_settings = {"longest_wait_s": wait_s, "untangle_s": 0.0, "patience_s": 0.0}
    known = {worker.worker for worker in view.workers}
    for name in NAMES:
        note(name)
        decision = placement_policies.named(name, given_settings).decide(view, memory)
        for act in decision.acts:
            assert act.session in {session.session for session in view.sessions}
            assert {getattr(act, "worker", None), getattr(act, "target", None)} <= known | {None}


@pytest.mark.parametrize("latency_s", [-1.0, float("nan"), float("-inf")])
def test_a_latency_that_is_none_keeps_nobody_waiting(latency_s: float) -> None:
    curve = (latency_s,) * 3
    worker = Worker("w", kind="h100", state="ready", capacity=1, slots=2, latency_s=curve, price_per_s=1.0)
    view = View(100.0, (worker,), (Session("s", active=True, since_s=0.0),), chunk_s=0.75)
    for name in NAMES:
        assert placement_policies.named(name, {}).decide(view, Memory()).acts, name


fleet_workers = st.builds(
    fleet.Worker,
    worker=names,
    kind=names,
    state=st.sampled_from(["booting", "ready", "draining"]),
    since_s=numbers,
    node=names,
    ready_at_s=numbers,
    kept=st.booleans(),
)
kinds = st.builds(
    fleet.Kind,
    kind=names,
    capacity=counts,
    latency_s=st.lists(numbers, max_size=4).map(tuple),
    price_per_s=numbers,
    boot_s=st.one_of(st.sampled_from([0.0, 30.0, -1.0, float("nan"), float("inf")])),
)
fleet_counts = st.builds(fleet.Counts, *[st.integers(-5, 50)] * len(fleet.Counts.__struct_fields__))
fleet_views = st.builds(
    fleet.View,
    now_s=numbers,
    workers=st.lists(fleet_workers, max_size=6).map(tuple),
    loads=st.lists(counts, max_size=7).map(tuple),
    kinds=st.lists(kinds, max_size=3).map(tuple),
    active=st.integers(-2, 40),
    queued=counts,
    idle=st.integers(-2, 40),
    counts=fleet_counts,
    rho_max=numbers,
    minimum=counts,
    maximum=counts,
    node_size=counts,
    spare=counts,
    frozen=st.booleans(),
)


@given(seen=st.lists(fleet_views, min_size=1, max_size=4))
@settings(max_examples=60)
def test_fleet_policies_answer_whatever_they_see(seen: list[fleet.View]) -> None:
    for name in NAMES:
        note(name)
        answer(name, seen)


def answer(name: str, seen: list[fleet.View]) -> None:
    policy, memory = fleet_policies.named(name, {}), None
    for view in seen:
        decision = policy.decide(view, memory)
        memory = decision.memory
        known = {worker.worker for worker in view.workers}
        change = decision.change
        assert {*change.undrain, *change.drain, *change.release} <= known
        assert all(count > 0 for count in change.start.values())
        assert sum(change.start.values()) <= max(0, view.maximum)


@every_policy
def test_after_a_clock_that_went_back_a_fleet_follows_again(name: str) -> None:
    """What was wanted before the jump doesn't hold the fleet up for longer than from now on."""
    policy: Any = fleet_policies.named(name, {})
    if name.startswith(("fixed", "ll", "memory")):
        return
    memory = None
    for now_s, active in [(1e9, 40), *((10.0 + n, 0) for n in range(400))]:
        view = fleet.View(
            now_s, (), (), (fleet.Kind("h100", 2, (0.0, 0.3, 0.55), 1.0, 30.0),),
            active, 0, 0, fleet.Counts(), 0.0, 0, 50,
        )  # fmt: skip
        decision = policy.decide(view, memory)
        memory = msgspec.msgpack.decode(msgspec.msgpack.encode(decision.memory), type=type(decision.memory))
    assert decision.desired <= 1
