"""The autoscaling controller of TurboServe (arXiv 2606.19271), as published, with the knobs of its demo.

After placement on the old fleet: target = ⌈N ÷ (K·ρ̂)⌉, grown where λ makes the objective C + λ·L smaller;
out when the highest load ratio calls for it, in after `hold_s` (its demo: 5 s). λ and ρ̂ come from a table
by recent volatility. The table's numbers are not published: these are ours. It doesn't know how long a
worker boots.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from services.autoscaler.policies.change import clamp, to_count
from services.autoscaler.policies.hold import Wanted, most, remember
from services.autoscaler.policies.sound import nothing_to_decide, sound
from services.autoscaler.policies.view import Decision, Kind, View

_WINDOW_S = 60.0
_EVERY_S = 1.0


class Row(NamedTuple):
    """Up to `volatility` (spread of the active sessions within a minute against their mean), use these."""

    volatility: float
    weight: float
    rho: float


TABLE = (Row(0.1, 0.0, 0.9), Row(0.3, 0.0, 0.8), Row(math.inf, 0.0, 0.7))


def volatility(samples: tuple[int, ...]) -> float:
    if not any(samples):
        return 0.0
    mean = sum(samples) / len(samples)
    return math.sqrt(sum((sample - mean) ** 2 for sample in samples) / len(samples)) / mean


def row_of(volatile: float) -> Row:
    return next(row for row in TABLE if volatile <= row.volatility)


def target(active: int, capacity: int, rho: float) -> int:
    """M = ⌈N_active ÷ (K·ρ̂)⌉, without what floating point adds to a whole quotient."""
    return math.ceil(active / (capacity * rho) - 1e-9)


def objective(workers: int, active: int, kind: Kind, weight: float) -> float:
    """C + λ·L with the sessions spread evenly."""
    each = min(math.ceil(active / workers), len(kind.latency_s) - 1)
    return kind.price_per_s * workers + weight * kind.latency_s[each]


class PaperMemory(msgspec.Struct, frozen=True):
    """`samples`: active sessions, one a second. `wanted`: targets that still hold the fleet up."""

    samples: tuple[int, ...] = ()
    sampled_s: float = -math.inf
    wanted: Wanted = ()


class Paper(msgspec.Struct, frozen=True, tag="paper"):
    """`rho`: ρ̂, None: by the table. `weight`: λ in workers per second of latency, None: by the table."""

    rho: float | None = None
    hold_s: float = 5.0
    weight: float | None = None

    def decide(self, view: View, memory: PaperMemory | None) -> Decision:
        view = sound(view)
        if not view.kinds:
            return nothing_to_decide(view, memory)
        before = memory or PaperMemory()
        samples, sampled_s = before.samples, min(before.sampled_s, view.now_s)
        if view.now_s - sampled_s >= _EVERY_S:
            samples = (*samples, view.active)[-int(_WINDOW_S / _EVERY_S) :]
            sampled_s = view.now_s
        row = row_of(volatility(samples))
        rho = row.rho if self.rho is None else self.rho
        least = self._least(view, rho, row.weight if self.weight is None else self.weight)
        wanted = remember(before.wanted, view.now_s, least, self.hold_s)
        have = sum(worker.state != "draining" for worker in view.workers)
        held = most(wanted) + view.spare
        # Out only when some worker is above the target after placement; in when the hold is over.
        desired = clamp(held if held < have or view.rho_max > rho or view.queued else have, view)
        reason = f"{view.active} active at ρ̂ {rho:g}: {least}; highest load ratio {view.rho_max:.2f}"
        return Decision(desired, to_count(desired, view), reason, PaperMemory(samples, sampled_s, wanted))

    def _least(self, view: View, rho: float, weight: float) -> int:
        kind = view.kinds[0]
        least = max(target(view.active, kind.capacity, rho), 1)
        if not weight or not view.active:
            return least
        options = range(least, max(least, min(view.maximum, view.active)) + 1)
        return min(options, key=lambda workers: objective(workers, view.active, kind, weight))
