"""What is played, one after the other, and what the simulator says of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.gpu.policies.trace import trace
from bench.live.calibrate import Calibration
from bench.live.prediction import digest
from bench.sim.simulate import FIXED, POLICIES, Options, simulate
from bench.traces.events import Event

LEAST_WORKERS = 1
_SAME_FLEET = "same-fleet"


class Phase(NamedTuple):
    """`policy`: of placement. `fixed`: all workers are there all the time; else the autoscaler, which has the
    policy of that name, follows demand from one worker on.
    """

    name: str
    policy: str
    fixed: bool

    def least(self, workers: int) -> int:
        return workers if self.fixed else LEAST_WORKERS


def phase(name: str) -> Phase:
    """Raises ValueError."""
    policy, _, fleet = name.partition(":")
    if policy not in POLICIES or fleet not in ("", _SAME_FLEET):
        raise ValueError(f"{name!r}: a policy ({', '.join(POLICIES)}), or one and :{_SAME_FLEET}")
    return Phase(name, policy, fleet == _SAME_FLEET or policy in FIXED)


class Terms(msgspec.Struct, frozen=True):
    """What the trace and the prediction are functions of. `settings`: of the scaled policy."""

    workers: int
    capacity: int
    seed: int
    duration_s: float
    settings: dict[str, Any] = {}

    def trace(self) -> list[Event]:
        """Raises NoTrace."""
        return trace(self.capacity, self.workers, self.seed, self.duration_s)


class Prediction(msgspec.Struct, frozen=True):
    """`trace`: SHA-256 of its events. `told`: by phase, what the simulator says."""

    made_at: str
    terms: Terms
    trace: str
    calibration: Calibration
    told: dict[str, dict[str, Any]]


def predict(terms: Terms, calibration: Calibration, phases: Sequence[Phase]) -> Prediction:
    """Raises NoTrace, Impossible."""
    events = terms.trace()
    told = {one.name: simulate(events, _options(terms, calibration, one)) for one in phases}
    made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Prediction(made_at, terms, digest(events), calibration, told)


def _options(terms: Terms, calibration: Calibration, one: Phase) -> Options:
    profile = calibration.profile
    gpus = tuple(msgspec.structs.replace(gpu, most_active=terms.capacity) for gpu in profile.gpus)
    return Options(
        policy=one.policy,
        profile=msgspec.structs.replace(profile, gpus=gpus),
        boot_s=calibration.boot_s,
        learned_boot_s=calibration.learned_boot_s,
        idle_s=calibration.learned_boot_s or calibration.boot_s,
        min_gpus=one.least(terms.workers),
        max_gpus=terms.workers,
        settings={} if one.fixed else terms.settings,
    )


def write(thing: msgspec.Struct, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(thing), indent=1) + b"\n")
