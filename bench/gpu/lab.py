"""Models of true sizes, and their forwards by hand, without sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.worker.models.protocol import Rung
from services.worker.models.slots import Layout, Pool
from services.worker.models.wan import random_weights
from services.worker.models.wan.attention import milliseconds
from services.worker.models.wan.choose import Chooser
from services.worker.models.wan.config import LONGLIVE, WAN_1_3B, Architecture, Geometry, WanConfig
from services.worker.models.wan.form import Form, Wishes
from services.worker.models.wan.fp8 import native_works
from services.worker.models.wan.graphs import capture_for
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.model import Wan
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.products import REPEATS, repeated
from services.worker.models.wan.session import State, regions
from services.worker.models.wan.swift import Swift
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.transformer import Transformer
from services.worker.models.wan.turned import EightBits, Workspace

LARGE = Geometry()
_TOP = 20
_TINY = Architecture("tiny", layers=2, dim=64, ffn_dim=128, heads=2, text_tokens=8, text_dim=32)


@dataclass(frozen=True)
class Setting:
    """Where and how large. `tiny`: to rehearse on a CPU. `spell_s`: how long viewers watch. `cycles`: of a
    session's opening to its closing.
    """

    device: torch.device
    tiny: bool
    spell_s: float = 25.0
    cycles: int = 1000

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def config(self, geometry: Geometry = LARGE) -> WanConfig:
        if self.tiny:
            small = Geometry(64, 32, geometry.chunk_latent_frames)
            return WanConfig(_TINY, LONGLIVE, small, self.dtype.itemsize)
        return WanConfig(WAN_1_3B, LONGLIVE, geometry, self.dtype.itemsize)

    def model(
        self,
        geometry: Geometry = LARGE,
        *,
        slots: int = 2,
        wishes: Wishes | None = None,
        decoder: Any = None,
    ) -> Wan:
        if self.tiny:
            decoder = decoder or TaehvDecoder((16, 16, 8, 8))
        config, device = self.config(geometry), str(self.device)
        return random_model(
            config,
            1,
            slots=slots,
            device=device,
            dtype=self.dtype,
            decoder=decoder,
            wishes=wishes or Wishes(),
        )


class Lab:
    """A transformer over a pool of its own, with every workspace; forms are tried one by one."""

    def __init__(self, setting: Setting, geometry: Geometry = LARGE, slots: int = 2) -> None:
        self.setting, self.config = setting, setting.config(geometry)
        device = setting.device
        with torch.device("meta"):
            self.transformer = Transformer(self.config)
        random_weights.fill(self.transformer, 1, device, setting.dtype)
        self.transformer.eval().requires_grad_(requires_grad=False).ready(device)
        layout = Layout(regions(self.config, TaehvDecoder(), setting.dtype))
        self.pool = Pool(layout, slots, device)
        kv, cross = self.pool["kv"], self.pool["cross"]
        eight = EightBits(kv) if usable(device) else None
        turned = Workspace(kv, setting.dtype)
        self.swift = Swift(self.transformer, turned=turned, eight=eight, native_fp8=native_works(device))
        self.chooser = Chooser(self.config, self.swift, kv, cross)

    @torch.inference_mode()
    def ms(self, form: Form, rows: int = 1, rounds: int = 21) -> float:
        """Of a captured forward."""
        return milliseconds(self.chooser.forward(rows, form), self.setting.device, rounds)

    def one_ms(self, work: Callable[[], Tensor]) -> float:
        """Of one of a few in a graph."""
        device = self.setting.device
        return milliseconds(repeated(work, capture_for(device)), device) / REPEATS

    @torch.inference_mode()
    def profile(self, form: Form, path: Path) -> None:
        """The kernels of two forwards, most expensive first, to a file."""
        from torch.profiler import ProfilerActivity, profile

        work, cuda = self.chooser.forward(1, form), self.setting.device.type == "cuda"
        work()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * cuda)]
        with profile(activities=activities) as seen:
            for _ in range(2):
                work()
            settle(self.setting.device)
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=key, row_limit=_TOP, max_name_column_width=90)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"two forwards, {form}\n{table}\n")


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """By the wall clock, with all that the device was told."""
    settle(device)
    started = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - started


def chunk(model: Wan, states: Sequence[State], rung: Rung) -> list[Tensor]:
    """Pictures of a chunk of each, stepped together."""
    forwards = [model.begin_chunk(state, rung) for state in states]
    for _ in range(max(forwards)):
        model.forward([state for state in states if state.passes])
    return [model.decode(state) for state in states]


def fill_window(model: Wan, states: Sequence[State]) -> None:
    """Until the window is full and its first full forward was captured."""
    spec = model.spec
    for _ in range(2 + -(-spec.rungs[0].window_latent_frames // spec.latent_frames_per_chunk)):
        for state in states:
            chunk(model, [state], spec.rungs[0])
