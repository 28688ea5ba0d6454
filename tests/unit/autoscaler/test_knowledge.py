"""What reports teach: boot times, what workers carry, and counts that go on over placements."""

import msgspec

from services.autoscaler.knowledge import Carries, Knowledge, in_silence, learn
from services.autoscaler.policies.view import Counts
from services.autoscaler.provider import Member
from shared.contracts.fleet import FleetLoad, SessionCounts, WorkerLoad


def load(*workers: WorkerLoad, placement: str = "p-1", counts: SessionCounts = SessionCounts()) -> FleetLoad:  # noqa: B008 - frozen
    return FleetLoad(placement, 0, 0, 0, 0, list(workers), [], 0.0, counts)


def ready(worker: str, capacity: int = 2, **told: object) -> WorkerLoad:
    return msgspec.structs.replace(WorkerLoad(worker, "ready", capacity, 0, 0), **told)


def members(*names: str) -> list[Member]:
    return [Member(name, "alive", 0.0) for name in names]


def test_boots_are_measured_from_the_order_to_the_first_time_ready() -> None:
    known = Knowledge().order(["a", "b", "c"], 10.0)
    assert known.boot_s(7.0) == 7.0
    known = learn(known, members("a", "b", "c"), load(ready("a")), 14.0)
    known = learn(known, members("a", "b", "c"), load(ready("a"), ready("b")), 16.0)
    assert known.boots_s == (4.0, 6.0)
    assert known.boot_s(7.0) == 5.0
    assert set(learn(known, members("a", "b"), load(), 17.0).ordered) == set(), "c has ended"


def test_workers_that_were_there_before_teach_no_boot_time() -> None:
    assert learn(Knowledge(), members("a"), load(ready("a")), 5.0).boots_s == ()


def test_what_a_kind_carries_is_the_mean_with_the_longest_curve() -> None:
    told = load(
        ready("a", 4, kind="H100", latency_s=[0.0, 0.3]),
        ready("b", 7, kind="H100", latency_s=[0.0, 0.3, 0.5]),
        ready("c", 1, kind="cpu"),
        WorkerLoad("d", "starting", 0, 0, 0),
    )
    known = learn(Knowledge(), members("a", "b"), told, 1.0)
    assert known.kinds == {"H100": Carries(5, (0.0, 0.3, 0.5)), "cpu": Carries(1)}
    assert known.kind == "H100", "of the provider's own"
    assert learn(known, members("a"), load(), 2.0).kinds == known.kinds


def test_counts_go_on_when_another_placement_begins_anew() -> None:
    known = learn(Knowledge(), [], load(counts=SessionCounts(arrived=5, idled=2)), 1.0)
    known = learn(known, [], load(counts=SessionCounts(arrived=7, idled=2)), 2.0)
    known = learn(known, [], load(placement="p-2", counts=SessionCounts(arrived=1)), 3.0)
    known = learn(known, [], load(placement="p-2", counts=SessionCounts(arrived=2)), 4.0)
    assert known.counts == Counts(arrived=9, idled=2)
    assert "p-1" in known.former


def test_silence_of_placement_is_nobodys_fault() -> None:
    known = learn(Knowledge(), members("a"), load(ready("a")), 1.0)
    assert in_silence(known, 50.0).heard == {"a": 50.0}
