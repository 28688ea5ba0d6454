"""What is run: policies with their settings, in groups that answer one question each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from bench.sim.simulate import Options
from bench.traces.events import Event
from bench.traces.statistics import peak_active

SHAPES = ("bursts", "wave", "steady", "spikes", "heavy", "long")
SEEDS = (1, 2, 3)
DEFAULT_Z = 4.0
CAPACITY = 2
"""Of the default profile's GPU."""
BOOT_S = 30.0
SHARE_S = 0.8
"""Waiting so long is no worse than the latency on a worker with one session too many."""
_FOR_WORST = (
    *((1.0, 1.0, z) for z in (0.0, 1.0, 2.5, 4.0)),
    *((1.0, 4.0, z) for z in (1.0, 2.0)),
    *((1.0, 8.0, z) for z in (0.0, 1.0, 2.0, 3.0)),
    *((0.7, 4.0, z) for z in (0.5, 1.5, 3.0)),
    *((0.5, 4.0, z) for z in (0.0, 0.5, 1.5)),
)
"""(fill, hold_boots, z): what lowers the worst latency, which is low only while nearly everybody is alone."""
_AS_THEIRS = (
    *((fill, 4.0) for fill in (0.9, 0.8, 0.75, 0.7, 0.65, 0.625, 0.6, 0.55, 0.5)),
    *((fill, 1.0) for fill in (0.9, 0.8)),
)
"""(fill, hold_boots): our placement on fleets sized without a forecast, by head-room, as theirs are."""
_SHARING: dict[str, Any] = {"share_s": SHARE_S, "settle_s": 0.0}
_SIZED_AS_THEIRS: dict[str, Any] = {
    "forecast": False,
    "hold_spells": 0.0,
    "patience_s": 0.0,
    **_SHARING,
    "settle_s": None,
}
_WORDS = {"sized as theirs, sharing": _SIZED_AS_THEIRS, "sharing": _SHARING}
"""What settings that belong together are called in the tables."""


class Case(msgspec.Struct, frozen=True):
    """`group`: "same fleet" and "elastic" without boot time, "boot" with it, "ablation", "stepping". `whole`:
    on the fixed fleet. `floor_weight`: what a session takes one step down, None: it can't be.
    """

    group: str
    policy: str
    settings: dict[str, Any] = {}
    boot_s: float = BOOT_S
    whole: bool = False
    label: str = ""
    floor_weight: float | None = None

    @property
    def name(self) -> str:
        able = ((words, told) for words, told in _WORDS.items() if self.settings.items() >= told.items())
        words, together = next(able, ("", {}))
        told = [f"{name}={value}" for name, value in self.settings.items() if name not in together]
        return self.label or " ".join(filter(None, [self.policy, *told, words]))


class Run(msgspec.Struct, frozen=True):
    """One case on one trace; `told` is what `turboserve simulate` prints."""

    shape: str
    seed: int
    case: Case
    told: dict[str, Any]


def cases() -> list[Case]:
    return [*_same_fleet(), *_elastic(), *_boot(), *_ablations(), *_stepping()]


def _same_fleet() -> Iterator[Case]:
    for policy in ("fixed-rr", "fixed-ll", "memory-greedy", "ll-resume", "paper", "turboserve"):
        yield Case("same fleet", policy, {}, 0.0, whole=True)


def _elastic() -> Iterator[Case]:
    yield Case("elastic", "ll-resume", {}, 0.0, whole=True)
    yield Case("elastic", "paper", {"rho": 1.0, "hold_s": 0.0}, 0.0)
    yield Case("elastic", "paper", {"rho": 0.9, "hold_s": 5.0}, 0.0)
    yield Case("elastic", "turboserve", {}, 0.0)


def _boot() -> Iterator[Case]:
    yield Case("boot", "ll-resume", whole=True)
    for rho in (None, 0.5, 0.6, 0.7, 0.8, 0.9):
        for hold_s in (5.0, 30.0, 120.0):
            yield Case("boot", "paper", {"rho": rho, "hold_s": hold_s})
    for target in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        yield Case("boot", "hpa", {"target": target})
    for z in (0.0, 0.5, 1.0, 2.0, 3.0, 3.75, DEFAULT_Z, 5.0, 6.0, 8.0):
        yield Case("boot", "turboserve", {"z": z})
    for fill, hold_boots, z in _FOR_WORST:
        sized = {"z": z, "fill": fill, "hold_boots": hold_boots}
        yield Case("boot", "turboserve", {**sized, **_SHARING})
    for fill, hold_boots in _AS_THEIRS:
        yield Case("boot", "turboserve", {"fill": fill, "hold_boots": hold_boots, **_SIZED_AS_THEIRS})


def _ablations() -> Iterator[Case]:
    off: dict[str, dict[str, Any]] = {
        "without forecast": {"forecast": False},
        "without holding": {"hold_boots": 0.0},
        "without un-draining": {"undrain": False},
        "without moves for latency": {"balance": False},
        "without minding beats": {"beats": False},
        "without untangling": {"untangle_s": None},
        "without patience": {"patience_s": 0.0, "drain_patience_s": 0.0},
        "without settling": {"settle_s": 0.0},
        "without holding for spells": {"hold_spells": 0.0},
        "without queueing": {"share_s": SHARE_S},
    }
    for label, settings in off.items():
        yield Case("ablation", "turboserve", settings, label=label)


def _stepping() -> Iterator[Case]:
    for weight in (0.7, 0.5):
        yield Case("stepping", "turboserve", label=f"floor rung at {weight:g}", floor_weight=weight)


def options(case: Case, events: list[Event]) -> Options:
    fleet = -(-peak_active(events) // CAPACITY) if case.whole else None
    return Options(
        policy=case.policy,
        boot_s=case.boot_s,
        settings=case.settings,
        min_gpus=fleet or 1,
        max_gpus=fleet,
        floor_rung_weight=case.floor_weight,
    )
