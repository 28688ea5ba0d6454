"""Ours: sized for the load when a worker ordered now would be ready, given back when keeping it costs more
than having it boot again.
"""

from __future__ import annotations

import math

import msgspec

from services.autoscaler.policies.change import clamp, to_capacity
from services.autoscaler.policies.forecast import Learned, active_in, first, learn
from services.autoscaler.policies.hold import Wanted, most, remember
from services.autoscaler.policies.sound import nothing_to_decide, sound
from services.autoscaler.policies.view import Decision, View


class TurboserveMemory(msgspec.Struct, frozen=True):
    learned: Learned
    wanted: Wanted = ()


class Turboserve(msgspec.Struct, frozen=True, tag="turboserve"):
    """`z`: how many deviations of the forecast to be ready for. `hold_boots`: how many boot times a worker
    is kept after it was last wanted. `arrivals_s`: how long an arrival counts for the rate of arrivals.
    `forecast` False: sized for the load of now. `undrain`: take back what drains before buying.
    """

    z: float = 4.0
    hold_boots: float = 1.0
    arrivals_s: float = 25.0
    forecast: bool = True
    undrain: bool = True

    def decide(self, view: View, memory: TurboserveMemory | None) -> Decision:
        view = sound(view)
        if not view.kinds:
            return nothing_to_decide(view, memory)
        learned = self._learn(view, memory)
        kind = view.kinds[0]
        needed, reason = self._needed(view, learned, kind.boot_s)
        count = math.ceil(needed / kind.capacity - 1e-9)
        wanted = memory.wanted if memory is not None else ()
        wanted = remember(wanted, view.now_s, count, self.hold_boots * kind.boot_s)
        desired = clamp(most(wanted) + view.spare, view)
        if most(wanted) > count:
            reason += f"; {most(wanted)} were wanted {view.now_s - wanted[0][0]:.0f} s ago"
        change = to_capacity(desired, view, undrain=self.undrain)
        return Decision(desired, change, reason, TurboserveMemory(learned, wanted))

    def _learn(self, view: View, memory: TurboserveMemory | None) -> Learned:
        if memory is None:
            return first(view.now_s, view.counts, view.active, view.idle)
        return learn(memory.learned, view.now_s, view.counts, view.active, view.idle, self.arrivals_s)

    def _needed(self, view: View, learned: Learned, boot_s: float) -> tuple[float, str]:
        """Sessions to have room for: those of now, and those expected when a worker could be ready."""
        if not self.forecast or boot_s <= 0.0:
            return view.active, f"{view.active} active"
        ahead = active_in(learned, boot_s)
        expected = ahead.at_most(self.z)
        reason = (
            f"{view.active} active, {ahead.mean:.1f} ± {ahead.deviation:.1f} expected in {boot_s:.0f} s: "
            f"ready for {max(expected, view.active):.1f}"
        )
        return max(expected, view.active), reason
