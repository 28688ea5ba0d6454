"""Which resumes are hand-overs, and how long whoever resumes a session waits for a decision."""

import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from services.placement.facts import ResumedByUser
from services.placement.fleet_view import FleetView
from services.placement.live import Live
from services.placement.lookout import Seen
from services.placement.policies.view import Decision, Memory, Place, View
from services.placement.resumes import MAX_AT_ONCE, Resumes
from services.placement.ticks import Ticks
from tests.unit.placement.examples import MODEL, make_copy, make_report, make_row
from tests.unit.placement.test_outlook import standing, view

WORKER: dict[str, Any] = {
    "model": msgspec.structs.replace(MODEL, architecture="dit-1"),
    "transports": ["tcp"],
}
REPORTS = [make_report("w-1", **WORKER), make_report("w-2", **WORKER)]


def seen_with(sessions: list[str]) -> Seen:
    """Paused at w-1, all of them to be resumed."""
    rows = {session: make_row("paused", id=session) for session in sessions}
    copies = {session: {"w-1": make_copy(session=session, state="paused")} for session in sessions}
    shown: View = view([standing(row=row) for row in rows.values()], REPORTS, copies)
    return Seen(shown, {session: Live(row, None) for session, row in rows.items()}, {})


def resumes_of(sessions: list[str]) -> Resumes:
    fleet, now = FleetView(5.0, 0.0), time.monotonic()
    copies = [make_copy(session=session, state="paused") for session in sessions]
    fleet.report(make_report("w-1", copies=copies, **WORKER), now)
    return Resumes(cast(Any, SimpleNamespace(fleet=fleet, reports=lambda: REPORTS)))


def test_more_hand_overs_than_may_be_at_once_are_left_to_the_next_decision() -> None:
    sessions = [f"s-{n:02}" for n in range(MAX_AT_ONCE + 2)]
    acts = tuple(Place(session, "w-2", "why") for session in sessions)
    found = resumes_of(sessions).sources(Decision(acts, (), 0.0, Memory()), seen_with(sessions))
    assert found.homes == dict.fromkeys(sessions[:MAX_AT_ONCE], "w-1")
    assert found.later == set(sessions[MAX_AT_ONCE:])


def test_who_goes_on_at_home_is_not_handed_over() -> None:
    found = resumes_of(["s-1"]).sources(
        Decision((Place("s-1", "w-1", "why"),), (), 0.0, Memory()), seen_with(["s-1"])
    )
    assert (found.homes, found.later) == ({}, frozenset())


async def test_who_resumes_waits_for_a_decision_that_sees_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is left out while its row is being saved, or until all workers were heard."""
    live, decisions = Live(make_row("paused", id="s-1"), None), 0

    async def decided(_: float) -> None:
        nonlocal decisions
        decisions += 1
        if decisions == 3:
            live.row, live.resuming = make_row("active", id="s-1"), None

    settings = SimpleNamespace(make_policy=lambda: None)
    placement = SimpleNamespace(settings=settings)
    placement.resumes = Resumes(cast(Any, placement))
    ticks = Ticks(cast(Any, placement))
    monkeypatch.setattr(ticks, "decided", decided)
    assert (await ticks.resume(live, ResumedByUser)).status == "active"
    assert decisions == 3
