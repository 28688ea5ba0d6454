"""A session's state to the host and back, by the worker's own host pool, beside another session's steps.

Steps and copies are told the device as the engine tells them: steps each when the last one is over, pictures
before a chunk's last pass, what that makes while it runs. The state's way back begins between two steps. And
once more with all steps of a chunk told before it: it should wait for none of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.gpu.errors import twin
from bench.gpu.lab import Setting, fill_window, settle
from bench.gpu.report import Report, quantile
from services.worker.models.protocol import Counters
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State
from services.worker.offload import Copying, HostPool, Mirror

_ROUNDS = 30
_PUMP_S = 0.001
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
        report.row(
            what, _ms(times), what, {"p50_s": statistics.median(times), "p95_s": quantile(times, 0.95)}
        )
    rate = size / statistics.median(trip.copied)
    report.row("resume: copy alone", f"{rate / 1e9:.1f} GB/s of {size:,} bytes", "resume_bytes_per_s", rate)
    report.row("left to copy at the boundary", f"{statistics.median(trip.left):,.0f} bytes")
    _beside(setting, report, trip, state)
    _at_once(setting, report, trip, state)


@dataclass
class _Trip:
    """Of one session, while the other is stepped. `left`: bytes to be copied once its chunk was over.
    `pumps`: seconds that the host's calls took which tell what is queued.
    """

    model: Wan
    pool: HostPool
    mirror: Mirror
    other: State
    device: torch.device
    times: dict[str, list[float]] = field(default_factory=lambda: {FREED: [], BACK: [], BEHIND: []})
    copied: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    pumps: list[float] = field(default_factory=list)

    def forget_times(self) -> None:
        """The first round's, in which everything is done for the first time."""
        self.times = {what: [] for what in self.times}
        self.copied, self.left = [], []

    def suspended(self, state: State) -> Counters:
        """After a chunk in the order of the engine: its pictures are told to come before its last pass, and
        what a pass makes for good leaves beside it.
        """
        model = self.model
        left = model.begin_chunk(state, model.spec.rungs[0])
        frames = None
        while left:
            if frames is None and model.pictures_final(state):
                frames = model.decode_later(state)
            self.step(state)
            left -= 1
        frames = frames or model.decode_later(state)
        started = time.perf_counter()
        saved = self.save(state, urgent=True)
        self.settle(lambda: saved.over)
        self.times[FREED].append(time.perf_counter() - started)
        self.left.append(saved.bytes)
        frames()
        counters = model.counters(state)
        model.close(state)
        return counters

    def step(self, state: State) -> None:
        """As the engine does, which has the copies go on beside it."""
        model, pool = self.model, self.pool
        model.forward([state])
        if state is not self.other:
            pool.save_ahead(self.mirror, model.memory(state), model.parts(state), model.final(state))
        self.settle(self._told())

    def settle(self, until: Callable[[], bool]) -> None:
        """As often as the engine looks."""
        pumped = 0.0
        while not until():
            if (now := time.perf_counter()) - pumped >= _PUMP_S:
                self.pool.pump()
                pumped = time.perf_counter()
                self.pumps.append(pumped - now)
            time.sleep(0)

    def save(self, state: State, *, urgent: bool = False) -> Copying:
        model = self.model
        return self.pool.save(self.mirror, model.memory(state), model.parts(state), urgent=urgent)

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
    """How much a whole state's copy slows the steps beside it, told as the engine tells it."""
    model, other, saves = trip.model, trip.other, list[float]()
    rung = model.spec.rungs[0]

    def steps(*, leaving: bool) -> float:
        forwards = model.begin_chunk(other, rung)
        settle(setting.device)
        started = time.perf_counter()
        if leaving:
            trip.mirror.versions = {}
            trip.save(state)
            saves.append(time.perf_counter() - started)
        for _ in range(forwards):
            trip.step(other)
        took = time.perf_counter() - started
        trip.settle(lambda: not trip.pool.waiting)
        settle(setting.device)
        model.decode(other)
        return took

    alone, copying = [], []
    trip.pumps.clear()
    for _ in range(5):
        alone.append(steps(leaving=False))
        copying.append(steps(leaving=True))
    ratio = statistics.median(copying) / statistics.median(alone)
    report.row("a chunk's steps with a whole state leaving ÷ without", f"{ratio:.3f}", "slowed", ratio)
    report.row("host's call that begins a whole state's copy", _ms(saves))
    report.row("host's calls that go on with it, longest", f"{1000 * max(trip.pumps, default=0.0):.2f} ms")


def _at_once(setting: Setting, report: Report, trip: _Trip, state: State) -> None:
    """What the host's calls take beside a whole state's copy told at once, as it isn't by the pool."""
    if setting.device.type != "cuda":
        return
    source, into = trip.model.memory(state), trip.pool._memory[trip.mirror.slot]  # noqa: SLF001
    stream, kept = torch.cuda.Stream(setting.device), []
    calls: dict[str, Callable[[], object]] = {
        "an event recorded": lambda: torch.cuda.current_stream().record_event(),
        "an event made, with timing": lambda: torch.cuda.Event(enable_timing=True).record(),
        "a kernel told": lambda: source[:1].clone(),
        "128 bytes page-locked": lambda: torch.zeros(16, dtype=torch.int64).pin_memory(),
        "a page-locked block, none being free": lambda: kept.append(
            torch.empty(3 << 20, dtype=torch.uint8, pin_memory=True)
        ),
    }
    for what, call in calls.items():
        call()
        settle(setting.device)
        alone = _seconds(call)
        settle(setting.device)
        told = _seconds(lambda: _told_at_once(stream, into, source))
        beside, over = _seconds(call), stream.query()
        settle(setting.device)
        said = f"{1000 * beside:.2f} ms, alone {1000 * alone:.2f}; the copy told in {1000 * told:.2f}"
        report.row(
            f"beside a state's copy told at once: {what}", said + (", and over by then" if over else "")
        )


def _told_at_once(stream: torch.cuda.Stream, into: torch.Tensor, source: torch.Tensor) -> None:
    with torch.cuda.stream(stream):
        for start in range(0, len(source), 64 << 20):
            into[start : start + (64 << 20)].copy_(source[start : start + (64 << 20)], non_blocking=True)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ms(times: list[float]) -> str:
    return f"p50 {1000 * statistics.median(times):.2f} ms, p95 {1000 * quantile(times, 0.95):.2f} ms"
