"""Noise drawn before it is needed, on a thread of its own: the same numbers as `draw`, which takes some
milliseconds that the device would wait for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from services.worker.models.noise import draw

_KEPT = 64

Key = tuple[int, int, int]
"""Seed, chunk, step."""


class NoiseAhead:
    """Of one shape. `pinned`: in memory that a GPU copies from on its own. Device thread only."""

    def __init__(self, shape: Sequence[int], *, pinned: bool) -> None:
        self._shape, self._pinned = tuple(shape), pinned
        self._drawn: OrderedDict[Key, Future[Tensor]] = OrderedDict()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="noise")

    def want(self, seed: int, chunk: int, steps: Sequence[int]) -> None:
        """Will be taken soon. Of what is never taken the oldest goes."""
        for step in steps:
            key = (seed, chunk, step)
            if key not in self._drawn:
                self._drawn[key] = self._threads.submit(self._draw, key)
        while len(self._drawn) > _KEPT:
            self._drawn.popitem(last=False)[1].cancel()

    def take(self, seed: int, chunk: int, step: int) -> Tensor:
        """On the CPU, float32. Waits for a draw at most."""
        drawn = self._drawn.pop((seed, chunk, step), None)
        return self._draw((seed, chunk, step)) if drawn is None else drawn.result()

    def forget(self, seed: int, chunk: int) -> None:
        """A session leaves in this chunk, or before it: what was drawn for it goes."""
        for key in [key for key in self._drawn if key[0] == seed and key[1] in (chunk, chunk + 1)]:
            self._drawn.pop(key).cancel()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _draw(self, key: Key) -> Tensor:
        made = draw(self._shape, *key)
        return made.pin_memory() if self._pinned else made


def pinned(values: list, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A few numbers to the device."""
    return sent(torch.tensor(values, dtype=dtype), device)


def sent(made: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it where it is a GPU."""
    if device.type != "cuda" or made.device.type != "cpu":
        return made.to(device)
    return made.pin_memory().to(device, non_blocking=True)
