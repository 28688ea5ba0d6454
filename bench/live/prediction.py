"""What the simulator says of a trace before it is played live, kept as a file."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.live.calibrate import Calibration
from bench.sim.simulate import Options, simulate
from bench.traces.events import Event

JUDGED = ("chunk_latency_ms.p50", "chunk_latency_ms.p95", "gpu_seconds")
_MIDDLE = "chunk_latency_ms.p95"
_SEEDS = 41


class Prediction(msgspec.Struct, frozen=True):
    """`trace`: SHA-256 of its events. `load`: of the machine in the minute before. `told`: what the simulator
    says; where it draws times, the run of middle p95 among many. `between`: by figure, where nine in ten
    of those lie; empty: it draws nothing.
    """

    made_at: str
    machine: str
    load: float
    trace: str
    policy: str
    max_workers: int
    calibration: Calibration
    told: dict[str, Any]
    between: dict[str, tuple[float, float]] = {}


def predict(events: Sequence[Event], calibration: Calibration, policy: str, max_workers: int) -> Prediction:
    options = Options(
        policy=policy,
        profile=calibration.profile,
        boot_s=calibration.boot_s,
        learned_boot_s=calibration.learned_boot_s,
        idle_s=calibration.learned_boot_s or calibration.boot_s,
        max_gpus=max_workers,
    )
    runs = [
        simulate(events, msgspec.structs.replace(options, seed=seed))
        for seed in range(1, 1 + (_SEEDS if calibration.profile.spread else 1))
    ]
    runs.sort(key=lambda run: figure(run, _MIDDLE) or 0.0)
    return Prediction(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        load=round(os.getloadavg()[0], 2),
        trace=digest(events),
        policy=policy,
        max_workers=max_workers,
        calibration=calibration,
        told=runs[len(runs) // 2],
        between={name: _between(runs, name) for name in JUDGED} if len(runs) > 1 else {},
    )


def figure(told: dict[str, Any], name: str) -> float | None:
    """The one at a path like "ttfc_ms.p50"; None where it isn't known."""
    value: Any = told
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _between(runs: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    values = sorted(figure(run, name) or 0.0 for run in runs)
    aside = len(values) // 20
    return values[aside], values[-1 - aside]


def digest(events: Iterable[Event]) -> str:
    return hashlib.sha256(b"\n".join(map(msgspec.json.encode, events))).hexdigest()


def opened_when_wanted(events: Iterable[Event]) -> list[Event]:
    """As a live system sees it: a session that arrives idle is opened when its user first wants pictures."""
    kept: list[Event] = []
    idle: set[str] = set()
    for event in events:
        if event.event == "arrive" and not event.active:
            idle.add(event.session)
        elif event.session not in idle:
            kept.append(event)
        elif event.event == "active":
            idle.discard(event.session)
            kept.append(Event(event.time_s, event.session, "arrive", active=True, prompt=event.prompt))
    return kept


def write(prediction: Prediction, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(prediction), indent=1) + b"\n")


def read(path: Path) -> Prediction:
    """Raises OSError, msgspec.ValidationError."""
    return msgspec.json.decode(path.read_bytes(), type=Prediction)
