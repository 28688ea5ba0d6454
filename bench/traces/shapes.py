"""What kinds of days there are: how fast sessions arrive, how long they act and pause.

The statistics are those of TurboServe's public demo trace (a simulator's output, not production), see
docs/decisions/0030-yardstick.md. They are part of the yardstick: a change needs a decision record.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

Draw = Callable[[float], float]
"""A number of the distribution from one that is uniform in (0, 1]."""


def weibull(mean_s: float, shape: float) -> Draw:
    scale_s = mean_s / math.gamma(1.0 + 1.0 / shape)
    return lambda uniform: scale_s * (-math.log(uniform)) ** (1.0 / shape)


def _log_uniform(low_s: float, high_s: float) -> Draw:
    return lambda uniform: low_s * (high_s / low_s) ** uniform


class Shape(NamedTuple):
    """`rate`: arrivals a second, by (time, value), straight between. `lifetime`: None ends a session after a
    geometric number of active spells with mean `spells`, else it departs when its time is over. `spikes`:
    (time, sessions) that arrive within `spike_s` beside those.
    """

    duration_s: float
    rate: tuple[tuple[float, float], ...]
    active: Draw
    idle: Draw
    arrive_active: float = 0.5
    spells: float = 2.365
    lifetime: Draw | None = None
    spikes: tuple[tuple[float, int], ...] = ()
    spike_s: float = 5.0


PARTING_S = 2.5
"""Mean time between a session's last active moment and its departure."""

_ACTIVE = weibull(15.5, 1.065)
_IDLE = weibull(24.0, 1.21)

_BURSTS = (
    *((0.0, 1.9), (175.0, 1.9), (215.0, 0.2), (500.0, 0.28), (560.0, 1.9), (700.0, 2.05), (850.0, 2.05)),
    *((890.0, 0.2), (1400.0, 0.16), (1430.0, 1.9), (1670.0, 1.9), (1700.0, 0.5), (1800.0, 0.28)),
)
_WAVE = tuple((step * 60.0, round(0.95 - 0.8 * math.cos(2 * math.pi * step / 60), 6)) for step in range(61))
_HEAVY_MEDIAN_S = 576.0
_HEAVY = weibull(_HEAVY_MEDIAN_S / math.log(2.0) ** 2 * 2.0, 0.5)

SHAPES = {
    "bursts": Shape(1800.0, _BURSTS, _ACTIVE, _IDLE),
    "wave": Shape(3600.0, _WAVE, _ACTIVE, _IDLE),
    "steady": Shape(1800.0, ((0.0, 0.95), (1800.0, 0.95)), _ACTIVE, _IDLE),
    "spikes": Shape(
        1800.0,
        ((0.0, 0.4), (1800.0, 0.4)),
        _ACTIVE,
        _IDLE,
        spikes=((300.0, 60), (700.0, 60), (1050.0, 60), (1500.0, 60)),
    ),
    "heavy": Shape(
        3600.0, ((0.0, 0.4), (180.0, 0.4), (200.0, 0.05), (3600.0, 0.05)), _ACTIVE, _IDLE, lifetime=_HEAVY
    ),
    "long": Shape(
        5400.0,
        ((0.0, 0.05), (600.0, 0.05), (660.0, 0.022), (5400.0, 0.022)),
        _log_uniform(600.0, 3600.0),
        weibull(120.0, 1.0),
        arrive_active=0.9,
        spells=1.4,
    ),
}
