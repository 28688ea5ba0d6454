"""Traces: what is read is what was written, what can't be is refused with its line, and shapes are what the
yardstick says."""

import hashlib
import json
from pathlib import Path

import pytest

from bench.traces import files
from bench.traces.events import Event, TraceError, checked
from bench.traces.generate import generate
from bench.traces.shapes import SHAPES
from bench.traces.statistics import demand, peak_active, summary

ARRIVES = {"time_s": 1.0, "session": "a", "event": "arrive", "active": True}


def _written(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    events = [
        *(
            Event(0.0, "a", "arrive", active=True, prompt="a red circle"),
            Event(0.5, "b", "arrive", active=False),
        ),
        *(
            Event(0.5, "a", "idle"),
            Event(2.25, "a", "active", prompt="a blue star"),
            Event(3.0, "a", "depart"),
        ),
    ]
    assert files.write(events, tmp_path / "t") == 5
    assert files.read(tmp_path / "t") == events
    assert json.loads((tmp_path / "t").read_text().splitlines()[2]) == {
        "time_s": 0.5,
        "session": "a",
        "event": "idle",
    }


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"time_s": 0.5, "session": "b", "event": "arrive", "active": True}, "sort the events"),
        (ARRIVES, "arrives a second time"),
        ({"time_s": 2, "session": "a", "event": "active"}, "is active already"),
        ({"time_s": 2, "session": "b", "event": "idle"}, "has not arrived"),
        ({"time_s": 2, "session": "b", "event": "arrive"}, '"active": true or false'),
        ({"time_s": 2, "session": "a", "event": "idle", "active": False}, "belongs to arrive"),
        ({"time_s": 2, "session": "a", "event": "idle", "prompt": "x"}, "belongs to arrive and active"),
        ({"time_s": 2, "session": "a", "event": "sleep"}, "sleep"),
        ({"time_s": 2, "session": "a", "event": "idle", "colour": 1}, "colour"),
        ({"time_s": "2", "session": "a", "event": "idle"}, "time_s"),
        ({"time_s": -1, "session": "a", "event": "idle"}, "0 or more"),
        ('{"time_s": NaN, "session": "a", "event": "idle"}', "malformed"),
        ({"time_s": 2, "session": "", "event": "idle"}, "empty"),
        ("", "empty"),
        ("{", "truncated"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, second: object, why: str) -> None:
    with pytest.raises(TraceError, match=why) as refused:
        files.read(_written(tmp_path / "t", ARRIVES, second))
    assert refused.value.line == 2


def test_nothing_comes_after_a_departure(tmp_path: Path) -> None:
    departs = {"time_s": 2.0, "session": "a", "event": "depart"}
    with pytest.raises(TraceError, match="line 3: session a has departed"):
        files.read(_written(tmp_path / "t", ARRIVES, departs, departs))


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no event"):
        files.read(_written(tmp_path / "t"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_makes_a_trace_that_can_be(shape: str) -> None:
    events = generate(shape, 7, duration_s=400.0)
    assert list(checked(events)) == events
    assert events == generate(shape, 7, duration_s=400.0) != generate(shape, 8, duration_s=400.0)


def test_bursts_have_the_statistics_of_the_yardstick() -> None:
    told = summary(generate("bursts", 1))
    assert told["sessions"] == pytest.approx(1719, rel=0.06)
    assert told["peak_retained"] == pytest.approx(186, rel=0.15)
    assert told["active_s"] == {
        "mean": pytest.approx(15.5, rel=0.05),
        "median": pytest.approx(10.9, rel=0.07),
        "cv": pytest.approx(0.94, abs=0.05),
    }
    assert told["idle_s"]["mean"] == pytest.approx(24, rel=0.05)


def test_the_same_seed_makes_the_same_bytes_on_every_python(tmp_path: Path) -> None:
    files.write(generate("bursts", 1), tmp_path / "t")
    digest = hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest()
    assert digest.startswith("f6cdd84e3fae1cbf")


def test_demand_counts_active_sessions_between_events() -> None:
    events = [
        *(Event(1.0, "a", "arrive", active=True), Event(2.0, "b", "arrive", active=False)),
        *(
            Event(2.0, "b", "active"),
            Event(5.0, "a", "depart"),
            Event(6.0, "b", "idle"),
            Event(9.0, "b", "depart"),
        ),
    ]
    assert demand(events) == [(1.0, 1), (2.0, 2), (5.0, 1), (6.0, 0), (9.0, 0)]
    assert peak_active(events) == 2
