"""Forwards captured once and replayed: a GPU then runs hundreds of kernels without waiting for Python."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """One forward's, at fixed addresses: what is written there before a replay is what it computes with.

    `mix` [rows, 3]: the level of noise, and how much of the clean picture and of fresh noise make the next
    latents.
    """

    latents: Tensor
    noise: Tensor
    mix: Tensor
    slots: Tensor
    places: Tensor


Step = Callable[[Inputs], Tensor]
Replay = Callable[[], None]


class Capture(Protocol):
    def __call__(self, work: Callable[[], Tensor], *, warm: bool) -> tuple[Replay, Tensor]:
        """Keeps what the work does; returns how to do it again and where its result lies. `warm`: kernels of
        that kind have run before; else the work is done first, with what is in its inputs.
        """


class _Captured(NamedTuple):
    inputs: Inputs
    replay: Replay
    out: Tensor


class Graphs:
    """By shape. `limit`: further shapes run uncaptured."""

    def __init__(self, capture: Capture, limit: int) -> None:
        self._capture, self._limit = capture, limit
        self._captured: dict[Hashable, _Captured] = {}
        self.seconds = 0.0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._captured

    def __len__(self) -> int:
        return len(self._captured)

    def capture(self, key: Hashable, inputs: Inputs, step: Step, *, warm: bool = False) -> None:
        """`inputs`: a copy becomes the graph's own. Nothing, where there are as many as may be."""
        if len(self._captured) >= self._limit:
            return
        started = time.perf_counter()
        own = Inputs(*(each.clone() for each in inputs))
        try:
            replay, out = self._capture(lambda: step(own), warm=warm)
        except RuntimeError:
            logger.exception("forwards can't be captured here, so they run one kernel at a time: %s", key)
            self._limit = 0
            return
        self._captured[key] = _Captured(own, replay, out)
        self.seconds += time.perf_counter() - started

    def run(self, key: Hashable, inputs: Inputs) -> Tensor:
        """The result is overwritten by the next run of any graph: copy it."""
        captured = self._captured[key]
        for own, given in zip(captured.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        captured.replay()
        return captured.out


class Uncaptured:
    """For devices without graphs: does the work again every time."""

    def __call__(self, work: Callable[[], Tensor], *, warm: bool) -> tuple[Replay, Tensor]:  # noqa: ARG002
        out = work().clone()

        def replay() -> None:
            out.copy_(work())

        return replay, out


class CudaCapture:
    """One pool of memory for all graphs of a device, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._aside = torch.cuda.Stream(device)  # one, since products keep a workspace for every stream

    def __call__(self, work: Callable[[], Tensor], *, warm: bool) -> tuple[Replay, Tensor]:
        """Other threads may use the device meanwhile."""
        aside = self._aside
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            if not warm:
                work()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
            out = work()
        return graph.replay, out


def capture_for(device: torch.device) -> Capture:
    return CudaCapture(device) if device.type == "cuda" else Uncaptured()
