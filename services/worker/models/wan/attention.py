"""The ways to attention that torch has, and which is fastest here: the default choice often isn't."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger(__name__)

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [rows, queries, heads, head_dim], k and v [rows, keys, heads, head_dim] -> as q."""

_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
TOLERANCE = 0.03
_CALLS, _ROUNDS = 4, 5
_LONG_MS, _ROUNDS_OF_LONG = 10.0, 3
_CLEARLY = 0.97
"""Of the time of the one before it: less isn't told from chance, and two workers should choose alike."""


def default(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def _only(backend: SDPBackend) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return default(q, k, v)

    return attend


ATTENTIONS: Mapping[str, Attention] = {"default": default} | {n: _only(b) for n, b in _BACKENDS.items()}


def runnable(ways: Mapping[str, Callable[[], Tensor]]) -> dict[str, Callable[[], Tensor]]:
    """Those that can be called here at all."""
    kept = {}
    for name, way in ways.items():
        try:
            way()
        except Exception as error:  # noqa: BLE001 as below
            logger.info("%s can't be used here: %s", name, _reason(error))
            continue
        kept[name] = way
    return kept


def _reason(error: Exception) -> str:
    """A line: a compiler's message is long, and the cause comes last."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def fastest(
    ways: Mapping[str, Callable[[], Tensor]], device: torch.device, tolerance: float = TOLERANCE
) -> tuple[str, dict[str, float]]:
    """The quickest of those that work and agree with the first, and what each takes in ms. `ways`: in the
    order of preference where it makes no odds; the first one works everywhere.
    """
    (first, reference), *_ = ways.items()
    wanted = reference().clone()
    took = {}
    for name, way in ways.items():
        try:
            if not _agrees(way(), wanted, tolerance):
                logger.warning("%s computes something else than %s here: not used", name, first)
                continue
            took[name] = milliseconds(way, device)
        except Exception as error:  # noqa: BLE001 a kernel that isn't there says so in many ways
            logger.info("%s can't be used here: %s", name, _reason(error))
    if first not in took:
        raise RuntimeError(f"{first} itself failed on {device}")
    chosen = first
    for name, ms in took.items():
        if ms < _CLEARLY * took[chosen]:
            chosen = name
    return chosen, took


def _agrees(made: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """By the mean error: single values differ by more in low precision."""
    error = (made.float() - wanted.float()).abs().mean()
    return bool(error <= tolerance * wanted.float().abs().mean())


def milliseconds(way: Callable[[], Any], device: torch.device, rounds: int | None = None) -> float:
    """Of one call on the device: the median of some rounds of a few calls each. A long call is timed fewer
    times: a start waits for it. `rounds` None: as many as that takes.
    """
    way()
    once = _milliseconds(way, device, 1)
    long = once > _LONG_MS
    calls, rounds = (1 if long else _CALLS), rounds or (_ROUNDS_OF_LONG if long else _ROUNDS)
    return statistics.median(_milliseconds(way, device, calls) for _ in range(rounds))


def _milliseconds(way: Callable[[], Any], device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            way()
        return 1000 * (time.perf_counter() - started) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(torch.cuda.current_stream(device))
    for _ in range(calls):
        way()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return float(begin.elapsed_time(end)) / calls
