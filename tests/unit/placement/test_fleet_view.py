import pytest

from services.placement.fleet_view import FleetView
from shared.contracts.fleet import WorkerExited
from tests.unit.placement.examples import SESSION, make_copy, make_report, make_row

SILENT_S = 5.0
LONG = 1000.0


def view_of(*reports: object, now: float = 0.0) -> FleetView:
    view = FleetView(SILENT_S, now)
    for report in reports:
        assert view.report(report, now)  # type: ignore[arg-type]
    return view


def seen(view: FleetView, until: float) -> FleetView:
    """As placement does: looked at often enough to trust its own silence."""
    for second in range(int(until) + 1):
        view.observe(float(second))
    return view


def test_the_newest_report_counts() -> None:
    view = view_of(make_report("w-1", 5, capacity=3))
    assert not view.report(make_report("w-1", 5), 1.0)
    assert not view.report(make_report("w-1", 4), 1.0)
    assert view.report(make_report("w-1", 6, capacity=9), 1.0)
    assert [state.report.capacity for state in view.alive(1.0)] == [9]


def test_a_new_process_replaces_an_old_one_and_has_none_of_its_copies() -> None:
    view = view_of(make_report("w-1", 50, make_copy()))
    assert view.report(make_report("w-1", 1, incarnation="i-2", started_at=200.0), 1.0)
    assert view.copy("w-1", SESSION) is None
    assert view.why_lost("w-1", "i-1", 1.0, LONG) == "its worker was started anew"
    assert view.why_lost("w-1", "i-2", 1.0, LONG) == ""
    assert not view.report(make_report("w-1", 51, make_copy()), 2.0), "a late word of the old process"


def test_silence_is_death_only_for_one_who_listened() -> None:
    view = seen(view_of(make_report()), 7.0)
    assert view.why_lost("w-1", "i-1", 4.9, LONG) == ""
    assert view.why_lost("w-1", "i-1", 7.0, LONG) == "its worker fell silent"
    assert view.why_lost("w-1", "i-1", 7.0, connected_s=1.0) == ""
    assert view.why_lost("w-1", "i-1", 7.0, connected_s=0.0) == ""
    assert view.alive(7.0) == []


def test_one_who_was_not_running_declares_nobody_dead() -> None:
    view = seen(view_of(make_report()), 1.0)
    view.observe(100.0)
    assert view.why_lost("w-1", "i-1", 100.0, LONG) == ""
    for second in range(101, 107):
        view.observe(float(second))
    assert view.why_lost("w-1", "i-1", 106.0, LONG) == "its worker fell silent"


def test_a_worker_never_heard_of_is_lost_after_listening_for_it() -> None:
    view = seen(FleetView(SILENT_S, 0.0), 6.0)
    assert view.why_lost("w-1", "i-1", 4.0, LONG) == ""
    assert view.why_lost("w-1", "i-1", 6.0, LONG) != ""
    assert not view.hears("w-1", "i-1")
    assert view.state("w-1") == ""


def test_an_exit_is_death_at_once_but_not_for_one_that_goes_on_reporting() -> None:
    view = view_of(make_report("w-1", 1, make_copy()))
    assert view.exited(WorkerExited("w-1", -9, "i-1"), 1.0)
    assert view.why_lost("w-1", "i-1", 1.0, connected_s=0.0) == "its worker ended"
    assert view.copy("w-1", SESSION) is None
    assert not view.report(make_report("w-1", 2, make_copy()), 1.5), "it was under way when the process ended"
    assert view.report(make_report("w-1", 3, make_copy()), 2.5)
    for again in ("i-1", ""):
        assert not view.exited(WorkerExited("w-1", -9, again), 3.0), "it is said again and again"
    assert view.why_lost("w-1", "i-1", 3.0, LONG) == ""


def test_the_end_of_a_process_is_nothing_to_the_next_one_of_its_name() -> None:
    view = view_of(make_report("w-1", 1, incarnation="i-1"))
    assert view.report(make_report("w-1", 1, make_copy(), incarnation="i-2", started_at=200.0), 1.0)
    assert not view.exited(WorkerExited("w-1", -9, "i-1"), 1.0)
    assert view.why_lost("w-1", "i-2", 1.0, LONG) == ""
    assert view.report(make_report("w-1", 2, make_copy(), incarnation="i-2", started_at=200.0), 1.5)
    assert view.exited(WorkerExited("w-1", -9, "i-2"), 2.0)
    assert view.why_lost("w-1", "i-2", 2.0, LONG) == "its worker ended"


def test_who_never_heard_a_worker_believes_that_it_ended_until_it_reports() -> None:
    """As the next placement, of workers that died with the one before."""
    view = view_of()
    assert view.exited(WorkerExited("w-1", -9, "i-1"), 0.0)
    assert view.why_lost("w-1", "i-1", 0.0, connected_s=0.0) == "its worker ended"
    assert view.why_lost("w-1", "i-2", 0.0, connected_s=0.0) == "", "not this process"
    assert not view.report(make_report("w-1", 7), 0.5), "it was under way"
    assert view.report(make_report("w-1", 8), 2.0)
    assert view.why_lost("w-1", "i-1", 2.0, LONG) == ""


def test_one_that_was_given_up_too_soon_may_end_later() -> None:
    """As one that hung in a pod: its autoscaler knows no incarnation, who started it does."""
    view = view_of()
    assert view.exited(WorkerExited("w-1"), 0.0)
    assert view.report(make_report("w-1", 7), 2.0)
    assert not view.exited(WorkerExited("w-1"), 3.0), "it is said again"
    assert view.why_lost("w-1", "i-1", 3.0, LONG) == ""
    assert view.exited(WorkerExited("w-1", -9, "i-1"), 4.0)
    assert view.why_lost("w-1", "i-1", 4.0, LONG) == "its worker ended"


def test_a_last_word_is_death_at_once() -> None:
    view = view_of(make_report("w-1", 1, make_copy()))
    view.report(make_report("w-1", 2, state="stopped"), 1.0)
    assert view.why_lost("w-1", "i-1", 1.0, 0.0) == "its worker ended"
    assert (view.alive(1.0), list(view.copies(1.0))) == ([], [])


def test_what_the_fleet_holds_and_serves() -> None:
    loading = make_report("w-3", state="starting")
    view = view_of(make_report("w-2", 1, make_copy()), make_report("w-1"), loading)
    assert [state.report.worker for state in view.alive(1.0)] == ["w-1", "w-2", "w-3"]
    assert view.holders(SESSION, 1.0) == {"w-2": make_copy()}
    assert list(view.copies(1.0)) == [("w-2", make_copy())]
    assert view.models(1.0)["sprites"].rungs == ["full", "low"]
    assert view_of(loading).models(0.0) == {}


def test_users_see_what_an_active_session_waits_for_on_its_worker() -> None:
    row = make_row("active", phase="running")
    for state, phase in [("rebuilding", "rebuilding"), ("encoding", "encoding"), ("paused", "running")]:
        assert view_of(make_report("w-1", 1, make_copy(state=state))).phase(row) == phase
    view = view_of(make_report("w-1", 1, make_copy(state="encoding")))
    assert view.phase(make_row("paused")) == "as it is"
    assert view.phase(make_row("active", phase="running", epoch=3)) == "running", "a copy of before"
    assert view.phase(make_row("active", phase="running", worker="w-2")) == "running", "not its owner's"
    assert view.phase(make_row("active", phase="running", incarnation="i-2")) == "running", "an old process"


@pytest.mark.parametrize(("passed_s", "remembered"), [(200.0, True), (400.0, False)])
def test_the_long_gone_are_forgotten(passed_s: float, remembered: bool) -> None:
    view = view_of(make_report())
    view.observe(passed_s)
    assert bool(view.state("w-1")) == remembered
