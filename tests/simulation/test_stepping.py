"""Stepping down before anybody is left waiting, and up again; sharing a worker with those whose chunks fall
due at other moments."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.placement.policies.beats import Tempo, fit, overlap_s
from services.placement.policies.turboserve import Turboserve
from services.placement.policies.view import (
    Decision,
    Memory,
    Move,
    Place,
    Refuse,
    Session,
    StepDown,
    StepUp,
    View,
    Worker,
)

NOW_S = 100.0
FLOOR = 0.5


@st.composite
def workers(draw: st.DrawFn, number: int) -> Worker:
    capacity, state = draw(st.integers(1, 3)), draw(st.sampled_from(["ready", "ready", "draining"]))
    slots = capacity + draw(st.integers(0, 4))
    latency_s = tuple(0.2 * n for n in range(slots + 1))
    return Worker(f"w{number}", "h100", state, capacity, slots, latency_s)  # type: ignore[arg-type]


@st.composite
def views(draw: st.DrawFn) -> View:
    """Workers within capacity, some of their sessions a step down already; others wait."""
    fleet = tuple(draw(workers(n)) for n in range(draw(st.integers(1, 4))))
    sessions: list[Session] = []
    for worker in fleet:
        load = 0.0
        for _ in range(draw(st.integers(0, worker.slots))):
            session = draw(a_session(len(sessions), worker.worker))
            if load + session.weight <= worker.capacity:
                load += session.weight
                sessions.append(session)
    sessions += [draw(a_session(len(sessions) + n, "")) for n in range(draw(st.integers(0, 5)))]
    return View(NOW_S, fleet, tuple(sessions), chunk_s=0.75, freed_per_s=0.5)


@st.composite
def a_session(draw: st.DrawFn, number: int, worker: str) -> Session:
    weight, floor = draw(st.sampled_from([(1.0, FLOOR), (1.0, 1.0), (FLOOR, FLOOR)]))
    return Session(
        f"s{number}",
        active=True,
        since_s=float(draw(st.integers(90, 100))),
        worker=worker,
        home=worker,
        priority=draw(st.integers(0, 2)),
        weight=weight,
        floor_weight=floor,
        full_weight=1.0,
    )


def after(view: View, decision: Decision) -> View:
    """The view once all acts are carried out; those refused are gone."""
    sessions = {session.session: session for session in view.sessions}
    for act in decision.acts:
        session = sessions[act.session]
        if isinstance(act, StepDown):
            assert session.floor_weight < session.weight
            session = msgspec.structs.replace(session, weight=session.floor_weight)
        elif isinstance(act, StepUp):
            assert session.full_weight > session.weight
            session = msgspec.structs.replace(session, weight=session.full_weight)
        elif isinstance(act, Place):
            session = msgspec.structs.replace(session, worker=act.worker, home=act.worker)
        elif isinstance(act, Move):
            session = msgspec.structs.replace(session, worker=act.target, home=act.target)
        sessions[act.session] = session
        if isinstance(act, Refuse):
            del sessions[act.session]
    return msgspec.structs.replace(view, sessions=tuple(sessions.values()))


def of(view: View, worker: Worker) -> list[Session]:
    return [session for session in view.sessions if session.worker == worker.worker]


@given(view=views(), roomy_s=st.sampled_from([None, 80.0, 95.0]))
def test_stepping_stays_within_capacity_and_slots(view: View, roomy_s: float | None) -> None:
    end = after(view, Turboserve().decide(view, Memory(roomy_s=roomy_s)))
    for worker in view.workers:
        assert sum(session.weight for session in of(end, worker)) <= worker.capacity + 1e-6
        assert len(of(end, worker)) <= worker.slots


@given(view=views())
def test_who_steps_down_makes_room_for_one_of_no_lower_priority_who_waited(view: View) -> None:
    decision = Turboserve(step_down_s=2.0).decide(view, Memory())
    sessions = {session.session: session for session in view.sessions}
    stepped = [sessions[act.session] for act in decision.acts if isinstance(act, StepDown)]
    placed = [sessions[act.session] for act in decision.acts if isinstance(act, Place)]
    waited = [session for session in placed if NOW_S - session.since_s >= 2.0]
    for session in stepped:
        assert waited
        assert session.priority <= max(other.priority for other in waited)
    assert len([session for session in stepped if session.worker]) <= 2 * len(waited)


@given(view=views(), wait_s=st.sampled_from([None, 0.1]))
def test_nobody_waits_or_is_refused_where_stepping_down_makes_room(view: View, wait_s: float | None) -> None:
    decision = Turboserve(step_down_s=0.0, longest_wait_s=wait_s).decide(view, Memory())
    end = after(view, decision)
    refused = {act.session for act in decision.acts if isinstance(act, Refuse)}
    left = [s for s in view.sessions if s.session in refused] + [s for s in end.sessions if not s.worker]
    for session in left:
        for worker in view.workers:
            here = of(end, worker)
            if worker.state != "ready" or len(here) >= worker.slots:
                continue
            lowest = sum(s.floor_weight if s.priority <= session.priority else s.weight for s in here)
            assert lowest + session.floor_weight > worker.capacity + 1e-9


@given(view=views())
def test_nobody_steps_up_while_somebody_waits_nor_before_there_was_room_for_a_while(view: View) -> None:
    policy = Turboserve(step_up_s=10.0)
    first = policy.decide(view, Memory())
    assert not any(isinstance(act, StepUp) for act in first.acts)
    later = msgspec.structs.replace(after(view, first), now_s=NOW_S + 10.0)
    second = policy.decide(later, first.memory)
    if any(isinstance(act, StepUp) for act in second.acts):
        assert not first.waiting
        assert not any(isinstance(act, StepDown) and act.session for act in second.acts)


def test_a_full_worker_takes_one_more_by_stepping_and_steps_up_when_it_left() -> None:
    worker = Worker("w0", "h100", "ready", 1, 4, (0.0, 0.3, 0.6, 0.9, 1.2))
    here, comes = (
        Session(name, active=True, since_s=since_s, worker=on, floor_weight=FLOOR)
        for name, since_s, on in (("here", 0.0, "w0"), ("comes", 98.0, ""))
    )
    view, policy = View(NOW_S, (worker,), (here, comes), freed_per_s=0.1), Turboserve(longest_wait_s=1.0)
    soon = policy.decide(msgspec.structs.replace(view, now_s=98.0), Memory())
    assert soon.acts == ()
    decision = policy.decide(view, Memory())
    assert [type(act) for act in decision.acts] == [StepDown, StepDown, Place]
    alone = msgspec.structs.replace(view, sessions=after(view, decision).sessions[:1])
    calm = policy.decide(alone, decision.memory)
    assert calm.acts == ()
    up = policy.decide(msgspec.structs.replace(alone, now_s=NOW_S + 10.0), calm.memory)
    assert [type(act) for act in up.acts] == [StepUp]


TEMPO = Tempo(chunk_s=0.75, alone_s=0.294, chunks=20.0)
moments = st.floats(0.0, 10.0)


@given(one=moments, other=moments)
def test_who_waits_for_whom_is_symmetric_and_recurs_with_every_chunk(one: float, other: float) -> None:
    wait_s = overlap_s(one, other, TEMPO)
    assert 0.0 <= wait_s <= TEMPO.alone_s
    assert abs(wait_s - overlap_s(other, one, TEMPO)) < 1e-9
    assert abs(wait_s - overlap_s(one + 3 * TEMPO.chunk_s, other, TEMPO)) < 1e-6


@given(begin=moments, beat=st.one_of(st.none(), moments))
def test_an_empty_worker_is_in_nobodys_way_and_a_beat_in_time_is_kept(
    begin: float, beat: float | None
) -> None:
    alone = fit([], begin, beat, TEMPO)
    assert alone.harm == 0.0
    in_time = beat is not None and begin + TEMPO.alone_s <= beat
    assert alone.beat_s == (beat if in_time else begin + TEMPO.alone_s)


def test_a_place_is_shared_with_whose_chunks_fall_due_at_another_moment() -> None:
    """Both workers have one session; the one that comes keeps its beat."""
    latency_s = (0.0, 0.294, 0.551)
    fleet = tuple(Worker(f"w{n}", "h100", "ready", 2, 2, latency_s) for n in range(2))
    for same, apart in (("w0", "w1"), ("w1", "w0")):
        sessions = (
            Session("a", active=True, since_s=0.0, worker=same, beat_s=100.75),
            Session("b", active=True, since_s=0.0, worker=apart, beat_s=100.75 + 0.375),
            Session("c", active=True, since_s=100.0, home=same, beat_s=100.75),
        )
        decision = Turboserve().decide(View(NOW_S, fleet, sessions, chunk_s=0.75), Memory())
        assert [act.worker for act in decision.acts if isinstance(act, Place)] == [apart]


def test_two_in_each_others_way_are_parted_once_and_for_all() -> None:
    latency_s = (0.0, 0.294, 0.551)
    fleet = tuple(Worker(f"w{n}", "h100", "ready", 2, 2, latency_s) for n in range(2))
    sessions = (
        Session("a", active=True, since_s=0.0, worker="w0", beat_s=100.75, move_cost_s=0.03),
        Session("b", active=True, since_s=0.0, worker="w0", beat_s=100.75, move_cost_s=0.03),
        Session("c", active=True, since_s=0.0, worker="w1", beat_s=100.75 + 0.375, move_cost_s=0.03),
    )
    view = View(NOW_S, fleet, sessions, chunk_s=0.75)
    decision = Turboserve().decide(view, Memory())
    assert len([act for act in decision.acts if isinstance(act, Move)]) == 1
    assert Turboserve().decide(after(view, decision), decision.memory).acts == ()
