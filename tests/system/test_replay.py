"""`turboserve replay` on a real system: viewers that do what a trace says, and what is counted of it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from bench.live.house import House
from bench.live.viewer import Until, Viewer
from bench.traces import files
from bench.traces.events import Event
from tests.fixtures.polling import read_json
from tests.fixtures.system import System
from tests.fixtures.waiting import until
from turboserve.cli import main
from turboserve.http_api import HttpApi

KEYS = {
    *("chunk_latency_ms", "worst_latency_ms", "ttfc_ms", "continuous_play_ratio", "gpu_seconds"),
    *("node_seconds", "moves", "suspends", "scale_events", "queued_s", "refused", "beyond_capacity"),
    *("decision_ms", "bound", "failed"),
}


@pytest.fixture
async def api(running_system: System) -> AsyncIterator[HttpApi]:
    api = HttpApi(running_system.url, trace=False)
    yield api
    await api.close()


@pytest.fixture
def house() -> House:
    begun_s = time.monotonic()
    return House(lambda: time.monotonic() - begun_s)


def gates(*conditions: Callable[[], bool]) -> Until:
    """Event n, at second n of a trace, happens once condition n holds, however long that takes."""

    async def wait(time_s: float) -> None:
        await until(conditions[int(time_s)], f"what the event at {time_s:g} s is to follow")

    return wait


def live_sessions(system: System) -> list[dict[str, str]]:
    return read_json(system.port, "/v1/sessions?live=true")["sessions"]


async def test_a_viewer_watches_pauses_comes_back_and_leaves(
    running_system: System, house: House, api: HttpApi
) -> None:
    events = [
        Event(0.0, "s", "arrive", active=True, prompt="a red ball"),
        Event(1.0, "s", "idle"),
        Event(2.0, "s", "active", prompt="a blue ball"),
        Event(3.0, "s", "depart"),
    ]
    before = {one["id"] for one in live_sessions(running_system)}

    def own() -> dict[str, str]:
        return next((one for one in live_sessions(running_system) if one["id"] not in before), {})

    viewer = Viewer(house, api, events, 7)
    chunks = house.meter.latencies_s
    await viewer.run(
        gates(
            lambda: True,
            lambda: len(chunks) >= 2,
            lambda: own().get("status") == "paused",
            # More than the two that come without any having been played and granted.
            lambda: len(chunks) >= 4 and own().get("prompt") == "a blue ball",
        )
    )
    assert viewer.problems == []
    assert own() == {}
    assert len(house.meter.ttfc_s) == 1
    assert house.meter.moves == house.meter.refusals == house.meter.active == house.meter.queued == 0
    assert [worker.active for worker in house.workers.values()] == [0]


async def test_who_is_back_before_the_system_knew_of_the_pause_does_not_wait(
    house: House, api: HttpApi
) -> None:
    events = [
        Event(0.0, "s", "arrive", active=True),
        Event(1.0, "s", "idle"),
        Event(2.0, "s", "active"),
        Event(3.0, "s", "depart"),
    ]
    viewer = Viewer(house, api, events, 0)
    served = lambda: len(house.meter.latencies_s) >= 1 and not house.meter.queued  # noqa: E731
    await viewer.run(gates(lambda: True, served, lambda: True, served))
    assert viewer.problems == []


async def test_a_session_that_ends_against_its_viewers_will_is_counted_and_hangs_nothing(
    running_system: System, house: House, api: HttpApi
) -> None:
    events = [Event(0.0, "s", "arrive", active=True), Event(1.0, "s", "depart")]
    before = {one["id"] for one in live_sessions(running_system)}
    viewer = Viewer(house, api, events, 0)

    def closed_by_somebody() -> bool:
        for one in live_sessions(running_system):
            if one["id"] not in before and house.meter.latencies_s:
                httpx.delete(f"{running_system.url}/v1/sessions/{one['id']}")
        return viewer.failed

    await viewer.run(gates(lambda: True, closed_by_somebody))
    assert "ended" in viewer.problems[-1]
    assert house.meter.refusals == house.meter.refused == house.meter.active == 0


def test_replay_prints_the_object_that_simulate_prints(running_system: System, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    files.write(
        [
            Event(0.0, "a", "arrive", active=True),
            Event(0.2, "b", "arrive", active=False),
            Event(0.4, "c", "arrive", active=True),
            Event(2.0, "a", "depart"),
            Event(3.0, "b", "depart"),
        ],
        trace,
    )
    before = {one["id"] for one in live_sessions(running_system)}
    asked = ["replay", "--trace", str(trace), "--url", running_system.url, "--speed", "2", "--json"]
    ran = CliRunner().invoke(main, asked)
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert set(told) >= KEYS
    assert (told["sessions"], told["duration_s"], told["failed"]) == (3, 1.5, 0), told
    assert told["gpu_seconds"] > 0
    assert {one["id"] for one in live_sessions(running_system)} <= before
