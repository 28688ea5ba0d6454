"""The prediction that is kept, and the page that says how far off it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.bound import bound
from bench.live import prediction, report
from bench.live.calibrate import Calibration, profile_of
from bench.traces import files
from bench.traces.events import Event, checked
from bench.traces.generate import generate
from bench.traces.statistics import demand, peak_active
from turboserve.messages import WorkerInfo

# Two together take less than two one after the other; four gain nothing, and are told as two pairs.
LATENCY_S = [0.0, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 1.1, 1.2, 1.4]


@pytest.fixture
def calibration() -> Calibration:
    worker = WorkerInfo("w-1", "ready", capacity=8, latency_s=LATENCY_S)
    return Calibration(profile_of(worker), boot_s=7.0)


def test_the_profile_has_the_latencies_that_the_worker_tells(calibration: Calibration) -> None:
    gpu = calibration.profile.gpus[0]
    assert gpu.latency_s()[: len(LATENCY_S)] == pytest.approx(LATENCY_S)
    assert gpu.capacity(calibration.profile.target_s) == 8


def test_the_small_trace_asks_for_two_workers_that_keep_up_with_five_but_not_always() -> None:
    events = files.read(files.SMALL)
    assert events == generate("bursts", seed=35, scale=0.06, duration_s=300.0)
    assert 5 < peak_active(events) < 10
    end_s = events[-1].time_s
    assert end_s < bound.least_gpu_s(demand(events), 5, boot_s=7.0, ready=1) < 1.5 * end_s
    assert list(checked(events)) == events


def test_the_trace_for_two_workers_fills_them_now_and_then() -> None:
    events = files.read(files.TWO_WORKERS)
    assert peak_active(events) == 6
    end_s = events[-1].time_s
    assert end_s < bound.least_gpu_s(demand(events), 3, boot_s=7.0, ready=1) < 1.8 * end_s


def test_who_arrives_idle_is_there_once_pictures_are_wanted() -> None:
    events = [
        Event(1.0, "a", "arrive", active=False),
        Event(2.0, "b", "arrive", active=True),
        Event(3.0, "never", "arrive", active=False),
        Event(4.0, "a", "active", prompt="a ball"),
        Event(5.0, "a", "idle"),
        Event(6.0, "never", "depart"),
        Event(7.0, "a", "depart"),
    ]
    opened = prediction.opened_when_wanted(events)
    assert list(checked(opened)) == opened
    assert [(event.session, event.event) for event in opened] == [
        ("b", "arrive"),
        ("a", "arrive"),
        ("a", "idle"),
        ("a", "depart"),
    ]
    assert (opened[1].active, opened[1].prompt) == (True, "a ball")


def test_a_prediction_is_read_as_it_was_written(calibration: Calibration, tmp_path: Path) -> None:
    events = prediction.opened_when_wanted(files.read(files.SMALL))
    made = prediction.predict(events, calibration, "turboserve", 2)
    prediction.write(made, tmp_path / "live-prediction.json")
    assert prediction.read(tmp_path / "live-prediction.json") == made
    assert made.trace == prediction.digest(events)


def test_where_times_are_drawn_the_prediction_is_the_middle_of_many_runs(calibration: Calibration) -> None:
    events = prediction.opened_when_wanted(files.read(files.TWO_WORKERS))
    drawn = msgspec.structs.replace(calibration.profile, spread=(0.8, 1.0, 1.5))
    made = prediction.predict(events, Calibration(drawn, boot_s=7.0), "turboserve", 2)
    low, high = made.between["chunk_latency_ms.p95"]
    assert low < made.told["chunk_latency_ms"]["p95"] < high
    assert "nine in ten: `chunk_latency_ms.p50`" in report.page(
        made, [], [], "t.jsonl", "python -m bench.live"
    )
    assert prediction.predict(events, calibration, "turboserve", 2).between == {}


def test_the_page_judges_the_middle_run(calibration: Calibration) -> None:
    events = prediction.opened_when_wanted(files.read(files.SMALL))
    made = prediction.predict(events, calibration, "turboserve", 2)

    def run(share: float) -> dict[str, object]:
        latency = {name: ms * share for name, ms in made.told["chunk_latency_ms"].items()}
        return made.told | {"chunk_latency_ms": latency, "failed": 1, "problems": ["away"], "boot_s": [6.5]}

    runs = [run(1.0), run(1.1), run(3.0)]
    far = report.off(made, runs)
    assert far["chunk_latency_ms.p50"] == pytest.approx(0.1)
    assert far["gpu_seconds"] == 0.0
    page = report.page(made, runs, [0.5, 0.6, 0.7], "small.jsonl", "python -m bench.live")
    [line] = [line for line in page.splitlines() if line.startswith("| `chunk_latency_ms.p95`")]
    assert line.endswith("+10% (≤ 15%) |")
    assert "Viewers that lost their session: 3." in page
