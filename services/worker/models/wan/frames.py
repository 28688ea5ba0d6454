"""Finished pictures on their way from the device to the host, while the device goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Later = Callable[[], Tensor]
"""Waits until the pictures have arrived. Any thread may call it, once or again."""


def pixels(frames: Tensor) -> Tensor:
    """[frames, 3, h, w] in 0..1 -> uint8 [frames, h, w, 3]."""
    return frames.float().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def copied_later(made: Tensor) -> Later:
    """Begins to copy at once, on a stream of its own; what is told the device next needn't wait for it."""
    if made.device.type != "cuda":
        return lambda: made
    aside, arrived = _stream(made.device), torch.cuda.Event()
    host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
    aside.wait_stream(torch.cuda.current_stream(made.device))
    with torch.cuda.stream(aside):
        host.copy_(made, non_blocking=True)
        arrived.record(aside)
    made.record_stream(aside)

    def wait() -> Tensor:
        arrived.synchronize()
        return host

    return wait


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
