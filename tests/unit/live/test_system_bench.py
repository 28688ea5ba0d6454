"""What the whole system's benchmark makes of what it hears: who came back how, and how long that took."""

import argparse
from typing import Any, cast

import pytest

from bench.gpu.report import Report
from bench.gpu.system.crowd import Restored
from bench.gpu.system.move_times import MoveTimes
from bench.gpu.system.run import Run, memory_in_use
from bench.gpu.system.spectator import Seen, Spectator
from bench.gpu.system.stow_report import tell_resumes, tell_suspends
from services.worker.device import Device
from shared.bus import Meta
from shared.contracts.moves import MoveNews
from turboserve.messages import Phase, Stowed

META = cast("Meta", None)


class Listening:
    """In a fleet's place: only moves were heard."""

    def __init__(self, moves: MoveTimes) -> None:
        self.moves = moves


def run_of(moves: MoveTimes) -> Run:
    fleet: Any = Listening(moves)
    nothing: Any = None
    return Run(argparse.Namespace(), nothing, fleet, nothing, Report("system", {}), 0.0)


def heard(moves: MoveTimes, session: str, **at: float) -> None:
    for state, when in at.items():
        moves.hear(MoveNews(f"m-{session}", session, "w2", state, when), META)


def restored(session: str, worker: str, begun_at: float = 100.5) -> Restored:
    viewer = Spectator("http://nowhere", 0, "", 0.0)
    viewer.seen.session = session
    viewer.seen.chunks_seen += [Seen(n, at, "w", at, 0.0, {}) for n, at in enumerate((99.0, begun_at, 102.0))]
    phases = [Phase("place", 0.1), Phase("restore", 0.2), Phase("restore copy", 0.15)]
    return Restored(viewer, 100.0, 101.0, "w1", Stowed(session, "active", worker, "device", 0, phases))


def test_resumes_are_told_by_how_they_came_back() -> None:
    moves = MoveTimes()
    heard(moves, "b", reserved=100.1, arrived=100.4)
    heard(moves, "c", reserved=99.0, arrived=99.2)  # an earlier move
    heard(moves, "d", reserved=100.1)  # came to nothing
    run = run_of(moves)
    workers = {"a": "w1", "b": "w2", "c": "w2", "d": "w2", "e": ""}
    tell_resumes(run, [restored(session, worker) for session, worker in workers.items()])
    told = run.report.figures
    ways = {"at home": 1, "handed over": 1, "rebuilt elsewhere": 2, "waits for room": 1}
    assert {way: told[f"resume, {way}"]["n"] for way in ways} == ways
    assert told["resume, handed over there"]["p50"] == pytest.approx(400)
    assert told["resume, at home"]["p50"] == pytest.approx(300)  # details within a phase count once
    assert told["resume, at home stepped"]["p50"] == pytest.approx(500)


def test_a_place_is_free_so_long_after_the_boundary() -> None:
    run = run_of(MoveTimes())
    busy = [Phase("stow", 0.3), Phase("stow wait", 0.2), Phase("stow copy", 0.03), Phase("stow free", 0.01)]
    idle = [Phase("pause", 0.01), Phase("stow", 0.0)]
    tell_suspends(run, [Stowed("a", "paused", "w1", "host", 0, phases) for phases in (busy, idle)])
    assert run.report.figures["suspend free"] == {"n": 1, "p50": 40.0, "p95": 40.0, "p99": 40.0, "max": 40.0}


def test_memory_in_use_is_told_by_worker() -> None:
    assert memory_in_use({}) == {}
    assert memory_in_use({"w1": Device("cpu")})["w1"] > 0
