from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.placement.outlook import REBUILT_S, STUCK_S, Standing, Terms, rung_weight, view_of
from services.placement.policies.registry import POLICIES, named
from services.placement.policies.view import Memory, Move, Place, Refuse, Session, View
from shared.contracts.fleet import CopyReport, DeviceReport, LatencyPoint, LoadReport, ModelReport
from shared.store.rows import SessionRow
from tests.unit.placement.examples import MODEL, make_copy, make_report, make_row

TERMS = Terms(now_s=1000.0, since_s={}, floor_rung="", spell_s=20.0, move_pause_s=0.05, away_s=0.15)
OTHER_WEIGHTS = msgspec.structs.replace(MODEL, weights_digest="sha256:1")


def standing(session: str = "s-1", going_to: str = "", **changes: object) -> Standing:
    row = make_row("active" if going_to else "queued", id=session, worker=going_to, incarnation="i-1")
    row = row if going_to else make_row("queued", id=session)
    fields: dict[str, object] = {"row": row, "since_s": 990.0, "going_to": going_to}
    return Standing(**(fields | changes))  # type: ignore[arg-type]


def view(
    standings: list[Standing],
    reports: list[LoadReport],
    copies: dict[str, dict[str, CopyReport]] | None = None,
    terms: Terms = TERMS,
) -> View:
    return view_of(standings, reports, copies or {}, terms)


def only(seen: View) -> Session:
    (session,) = seen.sessions
    return session


def test_a_worker_as_its_report_says() -> None:
    device = DeviceReport("H100", "cuda")
    curve = [LatencyPoint(1, 0.2, "full"), LatencyPoint(2, 0.3, "full"), LatencyPoint(1, 0.1, "low")]
    report = make_report(capacity=4, slots=3, device=device, curve=curve, node="n-1")
    (worker,) = view([], [report]).workers
    assert (worker.state, worker.kind, worker.node) == ("ready", "cuda", "n-1")
    assert (worker.capacity, worker.slots) == (3, 3), "no more than fit"
    assert worker.latency_s == (0.0, 0.2, 0.3, 0.5), "by the default rung, the model's first"


def test_a_worker_that_measured_nothing_is_as_slow_as_its_capacity_says() -> None:
    seen = view([], [make_report(capacity=2, slots=3)])
    assert seen.chunk_s == 1.0
    assert seen.workers[0].latency_s == (0.0, 0.5, 1.0, 1.5)


def test_states_and_since_when_one_drains() -> None:
    reports = [make_report(f"w-{n}", state=state) for n, state in enumerate(("draining", "starting", "new"))]
    workers = view([], reports, terms=TERMS._replace(since_s={"w-0": 950.0})).workers
    assert [(w.state, w.since_s) for w in workers] == [
        ("draining", 950.0),
        ("starting", 0.0),
        ("starting", 0.0),
    ]


def test_what_leaves_a_worker_still_takes_a_place_there() -> None:
    seen = view([standing(going_to="w-2", leaving="w-1")], [make_report("w-1"), make_report("w-2")])
    assert [worker.capacity for worker in seen.workers] == [1, 2]
    assert only(seen).worker == "w-2"


def test_who_is_on_a_silent_worker_is_not_placed_again() -> None:
    seen = view([standing(going_to="w-9")], [make_report("w-1")])
    assert [(w.worker, w.state) for w in seen.workers] == [("w-1", "ready"), ("w-9", "silent")]
    for name in POLICIES:
        assert named(name, {}).decide(seen, Memory()).acts == ()


def test_nobody_is_refused_while_a_worker_with_sessions_isn_t_heard() -> None:
    """As after a start: there may be more room than is known."""
    refusing = named("turboserve", {"longest_wait_s": 0.1})
    came = standing("s-2", row=make_row("queued", id="s-2", epoch=0, given_epoch=0))
    full = make_report("w-1", capacity=1)
    known = refusing.decide(view([standing(going_to="w-1"), came], [full]), Memory())
    assert [type(act) for act in known.acts] == [Refuse]
    unheard = refusing.decide(view([standing(going_to="w-9"), came], []), Memory())
    assert unheard.acts == ()
    assert unheard.waiting[0].expected_wait_s is None


def test_a_worker_that_starts_changes_nothing_for_sessions() -> None:
    """It knows its model's name, and nothing else of it."""
    unknown = ModelReport(MODEL.name, 0, 0, 0.0, 0, 0, 0, [], "", 0)
    ready, starting = make_report("w-1", capacity=2), make_report("w-0", state="starting", model=unknown)
    low = LatencyPoint(1, 0.1, "low"), LatencyPoint(1, 0.4, MODEL.rungs[0])
    ready = msgspec.structs.replace(ready, curve=list(low))
    stepped = [
        standing(f"s-{n}", "w-1", row=make_row(id=f"s-{n}", worker="w-1", served_rung="low"))
        for n in range(1, 5)
    ]
    alone = view([*stepped, standing("s-9")], [ready])
    beside = view([*stepped, standing("s-9")], [starting, ready])
    assert (beside.chunk_s, beside.sessions) == (alone.chunk_s, alone.sessions)
    assert named("turboserve", {}).decide(beside, Memory()).waiting == (), "there is room for it"


def test_a_session_resumes_elsewhere_at_once_where_its_home_is_full() -> None:
    home, other = make_report("w-1", capacity=1), make_report("w-2", capacity=1)
    paused = standing("s-1", row=make_row("paused", id="s-1", worker="w-1"))
    free = named("turboserve", {}).decide(view([paused], [home, other]), Memory())
    assert [act.worker for act in free.acts if isinstance(act, Place)] == ["w-1"]
    full = view([paused, standing("s-2", "w-1")], [home, other])
    decided = named("turboserve", {}).decide(full, Memory())
    assert [(act.session, act.worker) for act in decided.acts if isinstance(act, Place)] == [("s-1", "w-2")]


def test_home_is_the_owner_of_a_paused_session_else_the_newest_copy_that_can_go_on() -> None:
    reports = [make_report("w-1"), make_report("w-2"), make_report("w-3")]
    paused = standing(row=make_row("paused", id="s-1"))
    assert only(view([paused], reports)).home == "w-1"
    copies = {
        "s-1": {
            "w-1": make_copy(epoch=1, state="paused"),
            "w-2": make_copy(epoch=2, state="paused"),
            "w-3": make_copy(epoch=3, state="failed"),
        }
    }
    found = only(view([standing()], reports, copies))
    assert (found.home, found.away_cost_s, found.avoid) == ("w-2", REBUILT_S, ("w-3",))


@pytest.mark.parametrize(
    ("able", "copy", "anchored", "home", "other", "holding"),
    [
        (True, {}, False, {}, {}, ()),
        (True, {"tier": "host"}, False, {"state": "draining"}, {}, ()),
        (True, {"move_id": "m-1", "committed": True}, False, {}, {}, ()),
        (False, {"move_id": "m-1"}, False, {}, {}, ()),
        (False, {"tier": "none"}, False, {}, {}, ()),
        (False, {"epoch": 1}, False, {}, {}, ()),
        (False, {"state": "running"}, False, {}, {}, ()),
        (False, {}, True, {}, {}, ()),
        (False, {}, False, {}, {}, ("w-1",)),
        (False, {}, False, {"transports": ["ipc.a"]}, {"transports": ["ipc.b"]}, ()),
        (False, {}, False, {"model": OTHER_WEIGHTS}, {}, ()),
        (False, {}, False, {}, {"state": "draining"}, ()),
    ],
)
def test_being_away_costs_a_hand_over_where_home_can_give_the_state_else_a_rebuild(
    able: bool,
    copy: dict[str, Any],
    anchored: bool,
    home: dict[str, Any],
    other: dict[str, Any],
    holding: tuple[str, ...],
) -> None:
    linked: dict[str, Any] = {"transports": ["tcp"]}
    reports = [make_report("w-1", **(linked | home)), make_report("w-2", **(linked | other))]
    paused: dict[str, Any] = {"state": "paused"}
    copies = {"s-1": {"w-1": make_copy(**(paused | copy))}}
    for row in (make_row("queued", id="s-1"), make_row("paused", id="s-1")):
        waiting = standing(row=row, anchored=anchored)
        seen = only(view([waiting], reports, copies, TERMS._replace(holding=holding)))
        assert (seen.home, seen.away_cost_s) == ("w-1", TERMS.away_s if able else REBUILT_S)


def test_a_session_that_lost_its_state_is_not_a_new_one() -> None:
    lost = only(view([standing()], [make_report()]))
    assert (lost.home != "", lost.away_cost_s) == (True, 0.0)
    new = only(view([standing(row=make_row("queued", epoch=0))], [make_report()]))
    assert new.home == ""


def test_what_can_t_be_moved_now_costs_more_than_any_latency() -> None:
    reports = [make_report()]
    assert only(view([standing(going_to="w-1")], reports)).move_cost_s == TERMS.move_pause_s
    assert only(view([standing(going_to="w-1", stuck=True)], reports)).move_cost_s == STUCK_S


def test_sessions_are_grouped_with_the_workers_that_could_have_them() -> None:
    reports = [make_report("w-1", capacity=1), make_report("w-2", model=OTHER_WEIGHTS, capacity=2)]
    rows = [
        standing("s-1", going_to="w-1"),
        standing("s-2"),
        standing("s-3", row=make_row(id="s-3", model="unserved")),
        standing("s-4", row=make_row(id="s-4", rung="huge")),
    ]
    seen = view(rows, reports)
    assert [worker.group for worker in seen.workers] == ["sprites", "sprites#2"]
    assert [session.group for session in seen.sessions] == ["sprites", "sprites#2", "unserved", "sprites"]
    placed = [act for act in named("turboserve", {}).decide(seen, Memory()).acts if isinstance(act, Place)]
    assert [(act.session, act.worker) for act in placed] == [("s-2", "w-2")]


def test_with_its_state_a_session_waits_where_that_is_as_long_as_there_is_room() -> None:
    reports = [make_report("w-1", capacity=2), make_report("w-2", model=OTHER_WEIGHTS, capacity=9)]
    copies = {"s-1": {"w-1": make_copy(state="paused")}}
    assert only(view([standing()], reports, copies)).group == "sprites"
    full = [msgspec.structs.replace(reports[0], capacity=0), reports[1]]
    assert only(view([standing()], full, copies)).group == "sprites#2"


def test_what_a_rung_takes_of_a_worker() -> None:
    curve = [LatencyPoint(1, 0.4, "full"), LatencyPoint(1, 0.1, "low")]
    report = make_report(curve=curve)
    terms = TERMS._replace(floor_rung="low")

    def weights(row: SessionRow) -> tuple[float, float, float]:
        seen = only(view([standing(row=row)], [report], terms=terms))
        return seen.weight, seen.floor_weight, seen.full_weight

    assert weights(make_row()) == (1.0, 0.25, 1.0)
    assert weights(make_row(rung="low")) == (0.25, 0.25, 0.25), "it is there already"
    assert weights(make_row(served_rung="low")) == (0.25, 0.25, 1.0), "and up again"
    assert rung_weight(make_report(), "low") == 1.0, "nobody measured it"
    terms = TERMS._replace(floor_rung="lowest")
    assert weights(make_row()) == (1.0, 1.0, 1.0), "the model has no such rung"


@st.composite
def scenes(draw: st.DrawFn) -> View:
    states = st.sampled_from(["ready", "ready", "draining", "starting"])
    reports = [
        make_report(
            f"w-{n}",
            state=draw(states),
            capacity=draw(st.integers(0, 4)),
            slots=draw(st.integers(0, 5)),
            model=draw(st.sampled_from([MODEL, OTHER_WEIGHTS])),
        )
        for n in range(draw(st.integers(0, 4)))
    ]
    places = st.sampled_from(["", "w-9", *[report.worker for report in reports]])
    standings = [
        standing(
            f"s-{n}",
            draw(places),
            leaving=draw(places) if draw(st.booleans()) else "",
            stuck=draw(st.booleans()),
            since_s=draw(st.floats(0, 1000)),
        )
        for n in range(draw(st.integers(0, 9)))
    ]
    return view(standings, reports)


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from(sorted(POLICIES)))
def test_whatever_is_seen_can_be_decided_and_recorded(seen: View, name: str) -> None:
    """Nobody is placed where there is no slot, on a worker that isn't ready, or while another has it."""
    policy = named(name, {})
    assert msgspec.json.decode(msgspec.json.encode(seen), type=View) == seen
    decision = policy.decide(seen, Memory(uneven_s=0.0))
    assert (
        policy.decide(msgspec.json.decode(msgspec.json.encode(seen), type=View), Memory(uneven_s=0.0))
        == decision
    )
    workers = {worker.worker: worker for worker in seen.workers}
    load = {worker: sum(s.worker == worker for s in seen.sessions) for worker in workers}
    before = {session.session: session for session in seen.sessions}
    for act in decision.acts:
        assert isinstance(act, Place | Move)
        target = workers[act.worker if isinstance(act, Place) else act.target]
        assert target.state == "ready"
        assert target.group == before[act.session].group
        load[target.worker] += 1
        assert load[target.worker] <= target.slots
        if isinstance(act, Place):
            assert before[act.session].worker == ""
        else:
            load[act.source] -= 1
