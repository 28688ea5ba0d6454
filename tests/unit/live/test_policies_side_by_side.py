"""What the comparison of policies on GPUs is made of: its trace, what it hears, its table."""

import math

import pytest

from bench.gpu.policies import page, system
from bench.gpu.policies.phases import Phase, Terms, phase, predict
from bench.gpu.policies.run import shows_something
from bench.gpu.policies.trace import NoTrace, least_cost, mean_active, needed, trace
from bench.gpu.policies.watch import Watch
from bench.live.calibrate import Calibration
from bench.live.house import House
from bench.sim.profiles import PROFILES
from bench.traces.events import Event
from bench.traces.statistics import peak_active
from shared.contracts.fleet import CopyReport, DeviceReport, LoadReport, ModelReport
from shared.contracts.moves import MoveNews
from turboserve.errors import TurboserveError

MODEL = ModelReport("m", 8, 8, 8.0, 4, 4, 100, ["full"], "", 1)


@pytest.mark.parametrize(("capacity", "workers"), [(2, 2), (2, 4), (2, 8), (16, 4)])
def test_the_peak_of_a_trace_needs_every_worker_and_most_of_it_half(capacity: int, workers: int) -> None:
    events = trace(capacity, workers, 1, 150.0)
    assert events == trace(capacity, workers, 1, 150.0)
    spent_s = needed(events, capacity)
    assert max(spent_s) == workers == math.ceil(peak_active(events) / capacity)
    half_s = sum(spent for count, spent in spent_s.items() if count <= workers / 2)
    assert half_s >= 0.5 * sum(spent_s.values())
    assert 0.3 <= mean_active(events) / peak_active(events) <= 0.39
    assert least_cost(events, capacity, workers) <= 0.66


def test_the_mean_and_the_least_cost_of_a_trace() -> None:
    events = [
        Event(0.0, "a", "arrive", active=True),
        Event(40.0, "b", "arrive", active=True),
        Event(50.0, "b", "depart"),
        Event(80.0, "a", "idle"),
        Event(100.0, "a", "depart"),
    ]
    assert mean_active(events) == pytest.approx(0.9)
    assert least_cost(events, 1, 2) == pytest.approx((100.0 + 10.0 + 15.0) / 200.0)


def test_no_trace_is_made_up_where_none_fits() -> None:
    with pytest.raises(NoTrace, match="2 workers"):
        trace(2, 2, 1, 3.0)


def test_what_is_foretold_is_of_the_capacity_that_the_worker_reports() -> None:
    phases = [phase("fixed-rr"), phase("turboserve")]
    calibration = Calibration(PROFILES["h100-1.3b"], 20.0)
    told = predict(Terms(workers=2, capacity=1, seed=1, duration_s=120.0), calibration, phases).told
    assert [said["max_gpus"] for said in told.values()] == [2, 2]
    assert told["turboserve"]["gpu_seconds"] < told["fixed-rr"]["gpu_seconds"]


def test_phases() -> None:
    assert phase("turboserve") == Phase("turboserve", "turboserve", fixed=False)
    assert phase("turboserve:same-fleet").least(4) == phase("ll-resume").least(4) == 4
    for wrong in ("fast", "turboserve:big"):
        with pytest.raises(ValueError, match=wrong):
            phase(wrong)


def load(**tiers: str) -> LoadReport:
    copies = [CopyReport(name, "t", 1, 1, "running", 0, 0, tier=tier) for name, tier in tiers.items()]
    return LoadReport("w", "i", 1, "ready", MODEL, 2, 4, copies, [], DeviceReport("d", "cpu"), 0.0, 0.0)


def test_states_that_leave_and_return_are_counted_and_moves_timed_whoever_is_heard_first() -> None:
    watch = Watch()
    for told in (
        load(a="device", b="device"),
        load(a="host", b="device"),
        load(a="device", b="host"),
        load(),
    ):
        watch.reported(told)
    assert (watch.suspends, watch.resumes) == (2, 1)
    for news in (("1", "frozen", 5.0), ("1", "arrived", 5.02), ("1", "owner", 6.0), ("2", "arrived", 7.5)):
        watch.moved(MoveNews(news[0], "s", "w", news[1], news[2]))
    watch.moved(MoveNews("2", "s", "v", "frozen", 7.25))
    watch.moved(MoveNews("3", "s", "v", "frozen", 8.0))
    assert watch.pauses_s() == pytest.approx([0.02, 0.25])
    watch.forget()
    assert (watch.suspends, watch.resumes, watch.pauses_s()) == (0, 0, [])


def test_a_phase_that_shows_nothing_is_not_played_to_its_end() -> None:
    clock_s = [0.0]
    house = House(lambda: clock_s[0])
    house.activate(house.arrive("s"))
    clock_s[0] = 15.0
    house.now()
    shows_something(0.1, house)
    clock_s[0] = 25.0
    house.now()
    with pytest.raises(TurboserveError, match="25 s of demand"):
        shows_something(0.2, house)
    house.meter.latencies_s.append(0.3)
    shows_something(0.2, house)


def test_a_histogram_s_quantile_lies_within_its_bucket() -> None:
    buckets = [(1.0, 0.0), (2.0, 8.0), (4.0, 9.0), (math.inf, 10.0)]
    assert system.within(buckets, 0.5) == 1.625
    assert system.within(buckets, 0.9) == 4.0
    assert system.within(buckets, 0.99) == 4.0
    assert system.within([(1.0, 0.0), (math.inf, 0.0)], 0.5) is system.within([], 0.5) is None


def test_the_table_has_what_was_said_beside_what_was_seen() -> None:
    live = {"fixed-rr": {"gpu_seconds": 400.0, "moves": 0}, "turboserve": {"gpu_seconds": 330.0, "moves": 3}}
    lines = page.table(live, {"turboserve": {"gpu_seconds": 300.0, "moves": 2}}).splitlines()
    assert "| GPU-seconds | 400 | 330 (300, +10%) |" in lines
    assert "| moves of active sessions | 0 | 3 (2) |" in lines
    assert page.compared(live).splitlines()[-1].startswith("- `turboserve`: worst-case latency –")
    assert page.compared(live).endswith("GPU-seconds -17.5%")
