"""What is made of what sessions saw beside a busy second worker, and what a clocked model takes."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from bench.live.calibrate import Calibration
from bench.live.clocked import load_model
from bench.live.crowd import Seen, crowd_events, measured
from bench.live.paces import Paces
from bench.sim.profiles import Gpu, Profile
from bench.sim.simulate import Options, simulate
from bench.traces.events import Event, checked
from bench.traces.statistics import peak_active
from services.worker.models import UnknownModel, WeightsError

PROFILE = Profile("p", (Gpu("cpu", ((1, 0.2), (2, 0.4)), 8),), 1.5, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, "")


def test_a_profile_is_what_sessions_saw() -> None:
    known = Paces(alone_s=0.25, beside_busy=1.4, beside_boot=2.0, spread=(0.9, 1.1))
    seen = Seen(known, boot_s=9.0, busy_s=0.26, first_s=0.3, first_plays_s=1.125)
    found = measured(PROFILE, seen, told_later=((1, 0.24), (2, 0.4)))
    assert found.gpus[0].batch_s == ((1, 0.25), (2, 0.5))
    assert found.gpus[0].told_later == ((1, 0.3), (2, 0.5))
    assert found.gpus[0].slots == 8
    assert (found.start_s, found.first_chunk_s) == (0.04, 1.125)
    assert (found.beside_busy, found.beside_boot, found.spread) == (1.4, 2.0, (0.9, 1.1))


def test_the_crowd_is_a_trace_in_which_four_sessions_play_at_most() -> None:
    events = crowd_events()
    assert list(checked(events)) == events
    assert peak_active(events) == 4


def test_chunks_are_slower_beside_a_boot_and_no_longer_after_it() -> None:
    events = [Event(0.0, name, "arrive", active=True) for name in "abcde"] + [Event(30.0, "a", "depart")]
    slow = msgspec.structs.replace(PROFILE, beside_boot=1.4)
    told = [
        simulate(events, Options(profile=profile, boot_s=10.0, max_gpus=2))["chunk_latency_ms"]
        for profile in (PROFILE, slow)
    ]
    assert told[1]["p95"] > 1.2 * told[0]["p95"]
    assert told[1]["p50"] == pytest.approx(told[0]["p50"])


def test_a_clocked_model_takes_the_calibration_s_time(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(msgspec.json.encode(Calibration(PROFILE, boot_s=0.0)))
    model = load_model("clocked", device="cpu", weights_path=str(path))
    assert model.spec.chunk_frames / model.spec.fps == PROFILE.chunk_s
    states = [model.open(seed=n, prompt="red", first_chunk=0) for n in range(2)]
    for state in states:
        steps = model.begin_chunk(state, model.spec.rungs[0])
    began_s = time.perf_counter()
    for _ in range(steps):
        model.forward(states)
    assert time.perf_counter() - began_s >= 0.4
    assert len(model.decode(states[0])) == model.spec.first_chunk_frames


def test_a_clocked_model_wants_a_calibration(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no-such is no calibration"):
        load_model("clocked", weights_path=str(tmp_path / "no-such"))
    with pytest.raises(UnknownModel, match="use clocked"):
        load_model("tiny", weights_path="")
