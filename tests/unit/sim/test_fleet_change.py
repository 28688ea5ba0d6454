"""From a number of workers to acts, where kinds differ."""

from __future__ import annotations

from services.autoscaler.policies.change import to_capacity, to_count
from services.autoscaler.policies.view import Change, Counts, Kind, View, Worker

CHEAP = Kind("cheap", 2, (0.0, 0.3, 0.6), price_per_s=1.0)
DEAR = Kind("dear", 4, (0.0, 0.1, 0.2, 0.3, 0.4), price_per_s=3.0)


def view(workers: dict[str, tuple[str, int]], maximum: int = 20) -> View:
    """`workers`: (kind, load) by name; a name that begins with d drains, one with b boots."""
    state = {"d": "draining", "b": "booting"}
    told = tuple(
        Worker(name, kind, state.get(name[0], "ready"), 0.0)  # type: ignore[arg-type]
        for name, (kind, _) in workers.items()
    )
    loads = tuple(load for _, load in workers.values())
    return View(9.0, told, loads, (CHEAP, DEAR), sum(loads), 0, 0, Counts(), 1.0, 0, maximum)


def test_a_dear_worker_counts_what_it_holds_and_goes_first() -> None:
    seen = view({"r1": ("cheap", 1), "r2": ("dear", 1), "r3": ("cheap", 2)})
    assert to_capacity(4, seen) == Change()
    assert to_capacity(2, seen) == Change(drain=("r2",))
    assert to_capacity(6, seen) == Change(start={"cheap": 2})


def test_what_drains_comes_back_before_anything_is_bought() -> None:
    seen = view({"r1": ("cheap", 2), "d1": ("cheap", 1), "d2": ("cheap", 0)})
    assert to_capacity(2, seen) == Change(undrain=("d1",), release=("d2",))
    assert to_count(4, seen) == Change(undrain=("d1", "d2"), start={"cheap": 1})
    assert to_count(2, seen, undrain=False) == Change(start={"cheap": 1}, release=("d2",))


def test_what_boots_is_given_back_first_and_the_maximum_holds_for_all_that_is_paid() -> None:
    assert to_count(1, view({"r1": ("cheap", 0), "b1": ("cheap", 0)})) == Change(release=("b1",))
    full = view({"r1": ("cheap", 2), "d1": ("cheap", 2)}, maximum=2)
    assert to_count(2, full, undrain=False) == Change()
