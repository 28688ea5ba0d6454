"""The ways to attention that torch has, and which is fastest here: the default choice often isn't."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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
HOPELESS = 1.3
"""Times the quickest: a long call that takes more twice isn't timed again."""
_CLEARLY = 0.97
"""Of the time of the one before it: less isn't told from chance, and two workers should choose alike."""
Ways = Mapping[str, Callable[[], Tensor]]
"""Of computing the same, in the order of preference where it makes no odds; the first works everywhere."""


class Compare(Protocol):
    def __call__(
        self, ways: Ways, device: torch.device, tolerance: float = ..., *, first_told: bool = ...
    ) -> tuple[str, dict[str, float]]:
        """As `fastest`."""


def default(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def _only(backend: SDPBackend) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return default(q, k, v)

    return attend


ATTENTIONS: Mapping[str, Attention] = {"default": default} | {n: _only(b) for n, b in _BACKENDS.items()}


def runnable(ways: Ways) -> dict[str, Callable[[], Tensor]]:
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
    ways: Ways, device: torch.device, tolerance: float = TOLERANCE, *, first_told: bool = True
) -> tuple[str, dict[str, float]]:
    """The quickest of those that work and agree with the first, and what each takes in ms. Not `first_told`:
    that one is known to be slow, so that it isn't timed, and chosen only where nothing else works.
    """
    (first, reference), *_ = ways.items()
    wanted = reference().clone()
    once = {}
    for name, way in ways.items():
        try:
            if not _agrees(wanted if name == first else way(), wanted, tolerance):
                logger.warning("%s computes something else than %s here: not used", name, first)
            elif first_told or name != first:
                once[name] = _milliseconds(way, device, 1)
        except Exception as error:  # noqa: BLE001 a kernel that isn't there says so in many ways
            logger.info("%s can't be used here: %s", name, _reason(error))
    if first_told and first not in once:
        raise RuntimeError(f"{first} itself failed on {device}")
    took = {name: _settled(ways[name], device, ms, min(once.values())) for name, ms in once.items()}
    return _preferred(took, first), took


def _preferred(took: Mapping[str, float], first: str) -> str:
    chosen = next(iter(took), first)
    for name, ms in took.items():
        if ms < _CLEARLY * took[chosen]:
            chosen = name
    return chosen


def _agrees(made: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """By the mean error: single values differ by more in low precision."""
    error = (made.float() - wanted.float()).abs().mean()
    return bool(error <= tolerance * wanted.float().abs().mean())


def _settled(way: Callable[[], Any], device: torch.device, once: float, least: float) -> float:
    """ms of one call that took `once` when it was first timed; `least`: the quickest of those it is compared
    with. A start waits for long calls, so they are timed fewer times. What took hopelessly long is timed once
    more: host memory that is locked meanwhile holds the device up for a second.
    """
    if once > max(_LONG_MS, HOPELESS * least):
        once = min(once, _milliseconds(way, device, 1))
    if once <= _LONG_MS:
        return statistics.median(_milliseconds(way, device, _CALLS) for _ in range(_ROUNDS))
    if once > HOPELESS * least:
        return once
    return statistics.median([once, *(_milliseconds(way, device, 1) for _ in range(_ROUNDS_OF_LONG - 1))])


def milliseconds(way: Callable[[], Any], device: torch.device, rounds: int | None = None) -> float:
    """Of one call on the device: the median of some rounds of a few calls each. `rounds` None: as many as are
    compared by, fewer where a call is long.
    """
    way()
    once = _milliseconds(way, device, 1)
    if rounds is None:
        return _settled(way, device, once, once)
    calls = 1 if once > _LONG_MS else _CALLS
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
