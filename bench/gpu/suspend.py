"""A session's state to the host and back, by the worker's own host pool, beside another session's steps.

Those are told the device as the engine tells them, each when the last one is over, and the state's way back
begins between two. And once more with all steps of a chunk told before it: it should wait for none of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.gpu.errors import twin
from bench.gpu.lab import Setting, chunk, fill_window, settle
from bench.gpu.report import Report, quantile
from services.worker.models.protocol import Counters
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State
from services.worker.offload import Copying, HostPool, Mirror

_ROUNDS = 30
FREED = "suspend: slot free after the boundary"
BACK = "resume: state back"
BEHIND = "resume: state back, begun behind a chunk's steps"


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    model = setting.model(slots=3)
    size = model.spec.state_bytes
    started = time.perf_counter()
    pool = HostPool(2, size, str(setting.device))
    allocated_s = time.perf_counter() - started
    report.row("page-locking two slots", f"{allocated_s:.2f} s, {allocated_s / (2 * size / 2**30):.2f} s/GiB")
    state = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [state])
    mirror = pool.lease()
    assert mirror is not None
    trip = _Trip(model, pool, mirror, twin(model, state), setting.device)
    for number in range(2 * (_ROUNDS + 1)):
        what = (BACK, BEHIND)[number % 2]
        state = trip.resumed(trip.suspended(state), what)
        if number == 1:
            trip.forget_times()
    for what, times in trip.times.items():
        said = f"p50 {1000 * statistics.median(times):.2f} ms, p95 {1000 * quantile(times, 0.95):.2f} ms"
        report.row(what, said, what, {"p50_s": statistics.median(times), "p95_s": quantile(times, 0.95)})
    rate = size / statistics.median(trip.copied)
    report.row("resume: copy alone", f"{rate / 1e9:.1f} GB/s of {size:,} bytes", "resume_bytes_per_s", rate)
    report.row("written behind a chunk before its boundary", f"{statistics.median(trip.behind):,.0f} bytes")
    _beside(setting, report, trip, state)


@dataclass
class _Trip:
    """Of one session, while the other is stepped. `behind`: bytes copied while it still played."""

    model: Wan
    pool: HostPool
    mirror: Mirror
    other: State
    device: torch.device
    times: dict[str, list[float]] = field(default_factory=lambda: {FREED: [], BACK: [], BEHIND: []})
    copied: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)

    def forget_times(self) -> None:
        """The first round's, in which everything is done for the first time."""
        self.times = {what: [] for what in self.times}
        self.copied, self.behind = [], []

    def suspended(self, state: State) -> Counters:
        """After a chunk whose changes were copied behind it."""
        model, rung = self.model, self.model.spec.rungs[0]
        chunk(model, [state], rung)
        self.save(state)
        for _ in range(model.begin_chunk(state, rung)):
            model.forward([state])
        self.behind.append(self.save(state).bytes)
        model.decode(state)
        started = time.perf_counter()
        saved = self.save(state)
        while not saved.over:
            time.sleep(0)
        self.times[FREED].append(time.perf_counter() - started)
        counters = model.counters(state)
        model.close(state)
        return counters

    def save(self, state: State) -> Copying:
        return self.pool.save(self.mirror, self.model.memory(state), self.model.parts(state))

    def resumed(self, counters: Counters, what: str) -> State:
        """Beside a chunk of the other session."""
        model, steps = self.model, self.model.begin_chunk(self.other, self.model.spec.rungs[0])
        ahead = steps if what == BEHIND else 0
        for _ in range(ahead):
            model.forward([self.other])
        back, started = model.reserve(), time.perf_counter()
        loading = self.pool.load(self.mirror, model.memory(back), model.blank(back))
        arrival = _Arrival(loading, started)
        for _ in range(steps - ahead):
            model.forward([self.other])
            arrival.watch(self._told())
        arrival.watch(lambda: loading.over)
        self.times[what].append(arrival.took_s)
        self.copied.append(loading.duration_s)
        self.pool.join(loading)
        model.take_over(back, counters)
        self.mirror.versions = {name: part.version for name, part in model.parts(back).items()}
        settle(self.device)
        model.decode(self.other)
        return back

    def _told(self) -> Callable[[], bool]:
        """Whether the device has done what it was told up to now."""
        if self.device.type != "cuda":
            return lambda: True
        told: Callable[[], bool] = torch.cuda.current_stream(self.device).record_event().query
        return told


@dataclass
class _Arrival:
    """When a copy was over, as seen by a host that has other things to do. `took_s`: once it is."""

    loading: Copying
    started: float
    took_s: float = 0.0

    def watch(self, until: Callable[[], bool]) -> None:
        while True:
            enough = until()
            if not self.took_s and self.loading.over:
                self.took_s = time.perf_counter() - self.started
            if enough:
                return


def _beside(setting: Setting, report: Report, trip: _Trip, state: State) -> None:
    """How much a whole state's copy slows the steps beside it."""
    model, other = trip.model, trip.other
    rung = model.spec.rungs[0]

    def steps() -> float:
        forwards = model.begin_chunk(other, rung)
        settle(setting.device)
        started = time.perf_counter()
        for _ in range(forwards):
            model.forward([other])
        settle(setting.device)
        took = time.perf_counter() - started
        model.decode(other)
        return took

    alone, copying = [], []
    for _ in range(5):
        alone.append(steps())
        trip.mirror.versions = {}
        trip.save(state)
        copying.append(steps())
    ratio = statistics.median(copying) / statistics.median(alone)
    report.row("a chunk's steps with a whole state leaving ÷ without", f"{ratio:.3f}", "slowed", ratio)
