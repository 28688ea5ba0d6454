"""Workers that share processors, and times that are drawn."""

from __future__ import annotations

import msgspec
import pytest

from bench.sim.parts import KindOfWorker, SimWorker
from bench.sim.profiles import Gpu, Profile
from bench.sim.sharing import Sharing, between
from bench.sim.simulate import Options, simulate
from bench.sim.world import World
from bench.traces.events import Event

PROFILE = Profile("p", (Gpu("cpu", ((1, 0.2),), 8, most_active=1),), 1.5, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, "")


def chunks_of_two(profile: Profile, apart_s: float, seed: int = 1) -> dict[str, float]:
    """Latencies of two sessions on a worker each, the one of which comes so much after the other."""
    events = [Event(0.0, "a", "arrive", active=True), Event(apart_s, "b", "arrive", active=True)]
    options = Options(policy="fixed-rr", profile=profile, max_gpus=2, seed=seed)
    told: dict[str, float] = simulate([*events, Event(30.0, "a", "depart")], options)["chunk_latency_ms"]
    return told


@pytest.mark.parametrize(
    ("begun_s", "through_s"),
    [
        ([0.0], [0.2]),
        ([0.0, 0.0], [0.3, 0.3]),
        ([0.0, 0.3], [0.2, 0.5]),
        ([0.0, 0.1], [0.25, 0.35]),
        ([0.0, 0.0, 0.0], [0.4, 0.4, 0.4]),
    ],
)
def test_workers_take_longer_for_as_long_as_others_work_too(
    begun_s: list[float], through_s: list[float]
) -> None:
    """Half as long again beside one other, twice as long beside two."""
    world = World(PROFILE)
    kind = KindOfWorker(PROFILE.gpus[0], 1.5)
    workers = [SimWorker(str(n), "", kind, 0.0) for n in range(len(begun_s))]
    sharing, through = Sharing(world, beside_busy=1.5), dict[str, float]()
    for worker, at_s in zip(workers, begun_s, strict=True):
        world.at(at_s, sharing.begin, worker, 0.2, lambda one: through.update({one.name: world.now_s}))
    world.run(2.0)
    assert [through[worker.name] for worker in workers] == pytest.approx(through_s)


def test_chunks_on_two_workers_that_share_take_longer() -> None:
    told = chunks_of_two(msgspec.structs.replace(PROFILE, beside_busy=1.5), 0.0)
    assert told["p50"] == pytest.approx(300.0)
    assert chunks_of_two(PROFILE, 0.0)["p50"] == pytest.approx(200.0)


def test_times_are_drawn_by_seed_from_what_was_seen() -> None:
    drawn = msgspec.structs.replace(PROFILE, spread=(0.9, 1.0, 1.4))
    one, again, other = (chunks_of_two(drawn, 0.75, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert 180.0 < one["p50"] < one["max"] <= 280.0


def test_what_lies_between_quantiles() -> None:
    found = [between((0.9, 1.0, 1.4), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.9, 0.95, 1.0, 1.2, 1.4])


def test_a_worker_that_boots_later_may_tell_another_curve_and_is_as_quick() -> None:
    events = [Event(float(n), str(n), "arrive", active=True) for n in range(3)] + [Event(40.0, "0", "depart")]
    gpu = msgspec.structs.replace(PROFILE.gpus[0], most_active=2)
    profiles = [
        msgspec.structs.replace(PROFILE, gpus=(kind,))
        for kind in (gpu, msgspec.structs.replace(gpu, told_later=((1, 0.5), (2, 0.6))))
    ]
    told = [simulate(events, Options(profile=profile, max_gpus=2, boot_s=5.0)) for profile in profiles]
    assert [run["chunk_latency_ms"]["p50"] for run in told] == pytest.approx([200.0, 200.0])
    assert told[1]["worst_latency_ms"]["mean"] > told[0]["worst_latency_ms"]["mean"]


def test_a_first_chunk_that_plays_for_less_is_followed_sooner() -> None:
    events = [Event(0.0, "a", "arrive", active=True), Event(4.5, "a", "depart")]
    told = [
        simulate(events, Options(profile=profile, max_gpus=1))["chunks"]
        for profile in (PROFILE, msgspec.structs.replace(PROFILE, first_chunk_s=0.8))
    ]
    assert told[1] == told[0] + 1
