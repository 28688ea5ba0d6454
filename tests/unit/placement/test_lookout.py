import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.placement.facts import ResumedByUser
from services.placement.fleet_view import FleetView
from services.placement.hand_over import Ongoing
from services.placement.live import Live
from services.placement.lookout import Lookout
from services.placement.tally import Tally
from shared.contracts.moves import Move
from tests.unit.placement.examples import make_copy, make_report, make_row


class Surroundings:
    """What a lookout asks, and nothing more."""

    def __init__(self, *lives: Live) -> None:
        self.sessions = SimpleNamespace(live={live.row.id: live for live in lives}, tally=Tally())
        self.transfers = SimpleNamespace(target_of=self.target_of, stuck=lambda *_: False)
        self.resumes = SimpleNamespace(able=lambda *_: True, holding=lambda _: frozenset())
        self.settings = SimpleNamespace(floor_rung="")
        self.fleet = FleetView(5.0, time.monotonic() - 10.0)
        self.state = "ready"
        self.bound: dict[str, str] = {}

    def reports(self) -> list[Any]:
        return [make_report("w-1", state=self.state), make_report("w-2")]

    def target_of(self, session: str) -> str:
        return self.bound.get(session, "")

    def seen(self, lookout: Lookout) -> dict[str, str]:
        found = lookout.look()
        return {} if found is None else {session.session: session.worker for session in found.view.sessions}


def around(*lives: Live) -> tuple[Surroundings, Lookout]:
    surroundings = Surroundings(*lives)
    return surroundings, Lookout(cast(Any, surroundings))


def live(status: str, session: str) -> Live:
    return Live(make_row(status, id=session), None)


async def test_a_session_that_is_just_being_saved_is_left_to_the_next_decision() -> None:
    """Else a policy that counts would count it twice."""
    new, playing = live("queued", "s-1"), live("active", "s-2")
    surroundings, lookout = around(new, playing)
    async with new.lock, playing.lock:
        assert surroundings.seen(lookout) == {"s-2": "w-1"}
    assert surroundings.seen(lookout) == {"s-1": "", "s-2": "w-1"}
    new.doubtful = True
    assert surroundings.seen(lookout) == {"s-2": "w-1"}


async def test_who_had_a_worker_once_waits_until_all_were_heard() -> None:
    """Its state may be with one of them."""
    surroundings, lookout = around(live("queued", "s-1"), Live(make_row("queued", id="s-2", epoch=0), None))
    assert surroundings.seen(lookout) == {"s-1": "", "s-2": ""}
    surroundings.fleet = FleetView(5.0, time.monotonic() + 10.0)
    for sequence, epoch, seen in ((1, 1, {"s-2": ""}), (2, 2, {"s-1": "", "s-2": ""})):
        copy = make_copy("s-1", state="paused", epoch=epoch)
        surroundings.fleet.report(make_report("w-1", sequence, copy), time.monotonic())
        assert surroundings.seen(lookout) == seen


async def test_a_paused_session_is_seen_once_it_is_to_go_on() -> None:
    paused = live("paused", "s-1")
    surroundings, lookout = around(paused)
    assert lookout.look() is None
    paused.resuming = ResumedByUser
    assert surroundings.seen(lookout) == {"s-1": ""}


async def test_a_move_that_waits_for_its_turn_is_laid_on_its_target() -> None:
    playing = live("active", "s-1")
    surroundings, lookout = around(playing)
    surroundings.bound["s-1"] = "w-2"
    seen = lookout.look()
    assert seen is not None
    assert [worker.capacity for worker in seen.view.workers] == [1, 2], "its place is still taken"
    assert surroundings.seen(lookout) == {"s-1": "w-2"}


async def test_a_session_that_moves_stays_with_its_target_whatever_is_saved_meanwhile() -> None:
    moving = live("active", "s-1")
    move = Move("s-1.3", "s-1", "w-1", "w-2", 2, 3)
    moving.move, moving.reserved = Ongoing(move, "i-1", 0.0), "w-1"
    surroundings, lookout = around(moving)
    assert surroundings.seen(lookout) == {"s-1": "w-2"}
    moving.move.answered = True
    assert surroundings.seen(lookout) == {"s-1": "w-1"}


async def test_a_session_whose_state_is_brought_to_where_it_goes_on_is_laid_there_alone() -> None:
    waiting = live("queued", "s-1")
    surroundings, lookout = around(waiting)
    waiting.coming_to = "w-2"
    seen = lookout.look()
    assert seen is not None
    assert [worker.capacity for worker in seen.view.workers] == [2, 2], "it took no place at its home"
    assert (surroundings.seen(lookout), waiting.places) == ({"s-1": "w-2"}, {"w-2"})
    move = Move("s-1.3", "s-1", "w-1", "w-2", 2, 3)
    waiting.row = make_row("active", id="s-1", worker="w-2", epoch=3)
    waiting.coming_to, waiting.move = "", Ongoing(move, "i-1", 0.0, home="i-1")
    assert waiting.places == {"w-2"}
    standing = waiting.standing("", False, 0.0, 0.0)
    assert standing is not None
    assert (standing.going_to, standing.leaving) == ("w-2", "")


async def test_a_drain_begins_when_it_is_first_seen() -> None:
    playing = live("active", "s-1")
    surroundings, lookout = around(playing)

    def since_s() -> float:
        seen = lookout.look()
        assert seen is not None
        return seen.view.workers[0].since_s

    surroundings.state = "draining"
    first = since_s()
    assert since_s() == first > 0
    surroundings.state = "ready"
    assert since_s() > first, "taken back, it is ready since then"
    surroundings.state = "draining"
    assert since_s() > first


async def test_when_its_chunks_fall_due_is_known_while_its_viewer_goes_on() -> None:
    playing = live("active", "s-1")
    _, lookout = around(playing)

    def beat_s() -> float | None:
        seen = lookout.look()
        assert seen is not None
        return seen.view.sessions[0].beat_s

    assert beat_s() is None
    playing.viewers.granted_at = playing.since_s
    assert beat_s() == playing.since_s
    playing.since_s += 1.0
    assert beat_s() is None, "it was another spell's"
    playing.since_s = 0.0
    playing.viewers.granted_at = time.monotonic() - 60.0
    assert beat_s() is None, "its viewer has stopped"


async def test_a_worker_that_was_seen_to_start_is_as_old_as_its_readiness() -> None:
    """One that was ready when it was first heard, as after a takeover, is as old as can be."""
    surroundings, lookout = around(live("active", "s-1"))

    def ages() -> list[float]:
        seen = lookout.look()
        assert seen is not None
        return [worker.since_s for worker in seen.view.workers]

    surroundings.state = "starting"
    started = ages()[0]
    surroundings.state = "ready"
    assert ages()[0] > started > 0
    assert ages() == [ages()[0], 0.0]


async def test_a_session_that_goes_on_brings_what_its_viewer_has_left_to_play() -> None:
    paused = Live(make_row("paused", id="s-1", next_chunk=12, granted_through=9), None)
    paused.viewers.granted_at = paused.since_s - 0.25
    paused.resuming = ResumedByUser
    surroundings, lookout = around(paused)

    def beat() -> tuple[float | None, float]:
        seen = lookout.look()
        assert seen is not None
        return seen.view.sessions[0].beat_s, seen.view.now_s

    model = surroundings.reports()[0].model
    expected_s, now_s = beat()
    assert expected_s == pytest.approx(now_s + 2 * model.chunk_frames / model.fps - 0.25)
    paused.row, paused.resuming = make_row("active", id="s-1"), None
    paused.since_s = time.monotonic()
    assert beat()[0] == expected_s, "until a grant says better"
    paused.viewers.granted_at = time.monotonic()
    assert beat()[0] == paused.viewers.granted_at


async def test_a_session_whose_viewer_has_nothing_left_has_no_beat_when_it_goes_on() -> None:
    paused = Live(make_row("paused", id="s-1", next_chunk=12, granted_through=11), None)
    paused.viewers.granted_at = paused.since_s
    paused.resuming = ResumedByUser
    _, lookout = around(paused)
    seen = lookout.look()
    assert seen is not None
    assert seen.view.sessions[0].beat_s is None
