"""The simulator against what can be reckoned by hand, and against the live planner."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.sim.parts import KindOfWorker, SimSession, SimWorker
from bench.sim.profiles import PROFILES
from bench.sim.simulate import POLICIES, Impossible, Options, simulate
from bench.traces.events import Event
from bench.traces.generate import generate
from services.worker.plan_batch import Candidate, plan_batch

ONE = PROFILES["h100-1.3b"].gpus[0]
ALONE_MS = 289.0
"""One session's chunk on this profile: 286 ms and 3 ms to the viewer."""
TICK_MS = 20.0


def session(name: str, begins_s: float, ends_s: float) -> list[Event]:
    return [Event(begins_s, name, "arrive", active=True), Event(ends_s, name, "depart")]


def trace(*sessions: list[Event], end_s: float = 60.0) -> list[Event]:
    events = [event for events in sessions for event in events]
    events += [Event(0.0, "last", "arrive", active=False), Event(end_s, "last", "depart")]
    return sorted(events, key=lambda event: event.time_s)


def fixed(events: list[Event], **more: Any) -> dict[str, Any]:
    return simulate(events, Options(policy="ll-resume", **more))


def test_a_session_alone_plays_in_real_time() -> None:
    told = fixed(trace(session("a", 1.0, 31.0)))
    assert told["chunk_latency_ms"]["p50"] == pytest.approx(ALONE_MS)
    assert told["ttfc_ms"]["max"] == pytest.approx(TICK_MS + ALONE_MS)
    assert told["continuous_play_ratio"] == pytest.approx(1.0, abs=0.001)
    # It plays 29.6 s of its 30, and two chunks are made ahead of what it plays.
    assert told["chunks"] == 40 + 1
    assert told["gpu_seconds"] == pytest.approx(60.0)
    assert told["worst_latency_ms"] == {"mean": pytest.approx(286, abs=1), "p99": 286.0, "max": 286.0}


def test_a_worker_beyond_its_capacity_stalls_its_sessions() -> None:
    four = [session(name, 1.0, 31.0) for name in "abcd"]
    told = fixed(trace(*four), max_gpus=1)
    # Four of 286 ms for every 750 ms of video.
    assert told["continuous_play_ratio"] == pytest.approx(0.75 / 1.144, abs=0.03)
    assert told["beyond_capacity"] == pytest.approx(0.5, abs=0.01)
    assert told["worst_latency_ms"]["max"] == 1144.0


def test_one_too_many_is_queued_by_ours_and_the_others_keep_their_cadence() -> None:
    three = [session("a", 1.0, 21.0), session("b", 1.0, 31.0), session("c", 2.0, 31.0)]
    told = simulate(trace(*three), Options(max_gpus=1, boot_s=0.0))
    assert told["queued_s"] == pytest.approx(19.0, abs=0.1)
    assert told["beyond_capacity"] == pytest.approx(19.0 / 79.0, abs=0.01)
    assert told["worst_latency_ms"]["max"] == pytest.approx(19_000, abs=50)
    assert told["chunk_latency_ms"]["p95"] < 750.0


def test_who_would_wait_too_long_is_refused_and_all_its_time_counts_as_stalled() -> None:
    short = [session(f"x{n}", 1.0 + n, 3.0 + n) for n in range(20)]
    events = trace(*short, session("a", 1.0, 50.0), session("b", 1.0, 50.0), session("c", 30.0, 50.0))
    told = simulate(events, Options(max_gpus=1, boot_s=0.0, settings={"longest_wait_s": 1.0}))
    assert told["refused"] > 0
    assert told["continuous_play_ratio"] < 0.9
    assert told["queued_s"] + told["refused"] > 0


def test_a_pause_frees_the_place_and_what_was_buffered_plays_later() -> None:
    pausing = [*session("a", 1.0, 40.0), Event(11.0, "a", "idle"), Event(21.0, "a", "active")]
    told = fixed(trace(sorted(pausing, key=lambda event: event.time_s)))
    assert told["suspends"] == 1
    # Back on its worker within 73 ms and a chunk's time, while less than two chunks were left to play.
    assert told["continuous_play_ratio"] > 0.99


def test_a_worker_that_is_ordered_costs_its_boot_and_serves_after_it() -> None:
    told = simulate(
        trace(session("a", 10.0, 60.0), end_s=100.0),
        Options(min_gpus=0, boot_s=30.0, settings={"forecast": False}),
    )
    assert told["ttfc_ms"]["max"] == pytest.approx(30_000, abs=500)
    assert told["gpu_seconds"] >= told["bound"]["gpu_seconds"] == pytest.approx(80.0)


def test_boots_that_fail_are_paid_for_and_tried_again() -> None:
    events = trace(session("a", 10.0, 400.0), end_s=500.0)
    told = simulate(events, Options(min_gpus=0, boot_s=30.0, boot_fail_ratio=0.6, seed=3))
    well = simulate(events, Options(min_gpus=0, boot_s=30.0))
    assert told["gpu_seconds"] > well["gpu_seconds"] - 60.0
    assert told["ttfc_ms"]["max"] > well["ttfc_ms"]["max"] + 25_000


def test_whole_nodes_are_bought_and_given_back_whole() -> None:
    many = [session(f"s{n}", 5.0, 60.0) for n in range(18)]
    told = simulate(trace(*many, end_s=200.0), Options(boot_s=10.0, node_size=8))
    assert told["gpu_seconds"] == pytest.approx(8 * told["node_seconds"])
    assert told["bound"]["gpu_seconds"] <= told["gpu_seconds"]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_inputs_give_the_same_result(policy: str) -> None:
    events = generate("bursts", 3, duration_s=150.0)
    one, other = (simulate(events, Options(policy=policy, boot_fail_ratio=0.2)) for _ in range(2))
    del one["decision_ms"], other["decision_ms"]
    assert one == other
    assert one["chunks"] > 1000
    assert 0.0 <= one["beyond_capacity"] <= 1.0
    assert 0.0 <= one["continuous_play_ratio"] <= 1.0


@pytest.mark.parametrize("policy", ["turboserve", "paper"])
def test_without_boot_time_the_bound_is_reached_and_never_passed(policy: str) -> None:
    settings = {"rho": 1.0, "hold_s": 0.0} if policy == "paper" else {"drain_patience_s": 0.0}
    told = simulate(
        generate("steady", 3, duration_s=300.0), Options(policy=policy, boot_s=0.0, settings=settings)
    )
    assert told["gpu_seconds"] == pytest.approx(told["bound"]["gpu_seconds"], rel=0.03)


def test_the_least_worst_latency_is_never_passed() -> None:
    told = fixed(generate("bursts", 3, duration_s=300.0))
    assert told["worst_latency_ms"]["mean"] >= told["bound"]["worst_latency_ms"] * 0.97


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (Options(policy="best"), "no policy best"),
        (Options(profile="tpu"), "no profile tpu"),
        (Options(min_gpus=4, max_gpus=3), "at least 4 GPUs and at most 3"),
        (Options(latency_target_s=0.2), "below what one session alone takes"),
        (Options(settings={"rho": 1}), "has no setting rho"),
        (Options(settings={"z": "much"}), "a setting of turboserve"),
        (Options(max_gpus=4, node_size=8), "less than a node"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(options: Options, why: str) -> None:
    with pytest.raises(Impossible, match=why):
        simulate(trace(session("a", 1.0, 2.0)), options)


def test_a_simulated_worker_picks_what_the_live_planner_would(rng: random.Random) -> None:
    """A chunk is one step there; every chunk that is ready may begin."""
    kind = KindOfWorker(ONE, 0.75)
    curves = {"": ONE.curve()}
    for _ in range(300):
        worker = SimWorker("w", "", kind, 0.0)
        for number in rng.sample(range(40), rng.randint(1, ONE.slots)):
            ready = SimSession(f"s{number}", number)
            ready.play_end_s = rng.choice([0.0, 0.5, rng.random()])
            worker.ready.append(ready)
        candidates = [Candidate(s.number, False, False, 0, 0, -1, s.play_end_s) for s in worker.ready]
        expected = plan_batch(candidates, curves, beginnings=ONE.slots)
        left = {s.number for s in worker.ready} - set(expected)
        assert [s.number for s in worker.pick()] == list(expected)
        assert {s.number for s in worker.ready} == left


def test_profiles_agree_with_what_they_were_taken_from() -> None:
    assert KindOfWorker(ONE, 0.75).capacity == 2
    paper = PROFILES["paper"]
    kind = KindOfWorker(paper.gpus[0], paper.target_s)
    assert kind.capacity == 4
    assert kind.latency_s[1:5] == pytest.approx((0.181125, 0.2395, 0.300125, 0.363))
    sprites = PROFILES["sprites-cpu"]
    assert KindOfWorker(sprites.gpus[0], sprites.target_s).capacity == 5


def test_what_the_fleet_s_policy_has_seen_before_the_trace_counts() -> None:
    events = generate("bursts", seed=1, scale=0.3, duration_s=400.0)

    def gpu_seconds(**more: Any) -> float:
        return float(simulate(events, Options(boot_s=30.0, **more))["gpu_seconds"])

    knowing = gpu_seconds()
    assert gpu_seconds(learned_boot_s=30.0) == knowing
    assert gpu_seconds(learned_boot_s=5.0) < knowing < gpu_seconds(learned_boot_s=90.0)
    assert gpu_seconds(idle_s=60.0) < knowing
