"""A thousand sessions opened, played, suspended, resumed, moved, played and closed at the small geometry:
nothing stays.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from bench.gpu.lab import Setting, chunk, settle
from bench.gpu.report import Report
from services.worker.models.protocol import Rung
from services.worker.models.wan.config import SMALL
from services.worker.models.wan.form import Wishes
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import State
from services.worker.offload import HostPool

_WARM_UP, _REHEARSED = 50, 20
_LIMIT_S = 165.0
_SAID_EVERY = 100
_SLOTS = 4


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    started = time.perf_counter()
    cycles = _Cycles(setting, setting.model(SMALL, slots=_SLOTS, wishes=_wishes(setting)))
    report.row("model made", f"{time.perf_counter() - started:.1f} s")
    wanted, warm_up = (_REHEARSED, 10) if setting.tiny else (setting.cycles, _WARM_UP)
    for number in range(warm_up):
        cycles.cycle(number)
    before, began, done = cycles.memory(), time.perf_counter(), 0
    while done < wanted and time.perf_counter() - started < _LIMIT_S:
        if done % 10 == 0:
            cycles.resident.append(psutil.Process().memory_info().rss)
        cycles.cycle(warm_up + done)
        done += 1
        if done % _SAID_EVERY == 0:
            print(f"  {done} cycles after {time.perf_counter() - began:.1f} s: {cycles.memory()}", flush=True)
    _tell(report, cycles, before, done, time.perf_counter() - began)


class _Memory(NamedTuple):
    """`held`, `pinned`: what tensors hold, on the device and page-locked beside the pool; `spare`: what torch
    had page-locked beyond that, for its next tensors, before it was told to let go of it; `driver`: what the
    device's driver says is in use, which is torch's spare memory there, graphs and kernels too.
    """

    held: int
    pinned: int
    spare: int
    driver: int


@dataclass
class _Cycles:
    setting: Setting
    model: Wan
    resident: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        full = self.model.spec.rungs[0]
        self._rung = Rung("one step", 1, full.window_latent_frames, full.kv_dtype)
        self.pool = HostPool(_SLOTS, self.model.spec.state_bytes, str(self.setting.device))

    def cycle(self, number: int) -> None:
        state = self.model.open(seed=number, prompt=f"session {number}")
        chunk(self.model, [state], self._rung)
        moved = self._moved(self._resumed(state))
        chunk(self.model, [moved], self._rung)
        self.model.close(moved)

    def _resumed(self, state: State) -> State:
        mirror = self.pool.lease()
        assert mirror is not None
        self.pool.join(self.pool.save(mirror, self.model.memory(state), self.model.parts(state)))
        counters = self.model.counters(state)
        self.model.close(state)
        back = self.model.reserve()
        self.pool.join(self.pool.load(mirror, self.model.memory(back)))
        self.model.take_over(back, counters)
        self.pool.free(mirror)
        return back

    def _moved(self, state: State) -> State:
        """As a target takes a state over, from another slot instead of another device."""
        arrived = self.model.reserve()
        self.model.memory(arrived)[:] = self.model.memory(state)
        self.model.take_over(arrived, self.model.counters(state))
        self.model.close(state)
        return arrived

    def memory(self) -> _Memory:
        gc.collect()
        settle(self.setting.device)
        if self.setting.device.type != "cuda":
            return _Memory(0, 0, 0, 0)
        free, total = torch.cuda.mem_get_info(self.setting.device)
        owned = _page_locked()
        torch._C._host_emptyCache()  # noqa: SLF001 torch offers no other way; its own captures do it
        pinned = _page_locked()
        held = torch.cuda.memory_allocated(self.setting.device)
        return _Memory(held, pinned, owned - pinned, total - free)


def _page_locked() -> int:
    """By torch's allocator: in use or kept for the next use."""
    return int(torch.cuda.host_memory_stats()["allocated_bytes.current"])


def _wishes(setting: Setting) -> Wishes:
    """Nothing is compared: which form is fastest makes no odds here, and that would take as long as all
    else.
    """
    if setting.device.type != "cuda":
        return Wishes()
    return Wishes(
        pieces="triton", window="gather", attention="default", cross="default", gelu=False, fp8=False
    )


def _tell(report: Report, cycles: _Cycles, before: _Memory, done: int, took_s: float) -> None:
    after, resident = cycles.memory(), cycles.resident
    fifth = max(1, len(resident) // 5)
    slope = sorted(resident[-fifth:])[fifth // 2] - sorted(resident[:fifth])[fifth // 2]
    report.row("cycles", f"{done} in {took_s:.1f} s, {done / took_s:.1f} a second", "cycles", done)
    for name, words in (
        ("held", "device memory held, after less before"),
        ("pinned", "page-locked memory beside the pool that tensors hold, after less before"),
        ("driver", "device memory as its driver says, after less before"),
    ):
        grown = getattr(after, name) - getattr(before, name)
        report.row(words, f"{grown:,} bytes", f"{name}_bytes", grown)
    spare = f"{before.spare:,} and {after.spare:,} bytes"
    report.row("page-locked memory kept by torch for its next tensors, before and after", spare)
    report.row("process memory, last fifth less first", f"{slope / 1e6:.1f} MB", "resident_bytes", slope)
    free = cycles.model.pool.free_slots
    report.row(
        "slots free", f"{free} of {_SLOTS} on the device, {cycles.pool.free_slots} of {_SLOTS} on the host"
    )
    report.notes.append(
        "chunks of one denoise step and a clean pass; a move goes to another slot of the device"
    )
