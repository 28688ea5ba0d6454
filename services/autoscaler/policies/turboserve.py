"""Ours: sized for the load when a worker ordered now would be ready, given back when keeping it costs more
than having it boot again.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from services.autoscaler.policies.change import clamp, to_capacity
from services.autoscaler.policies.forecast import Learned, active_in, first, learn
from services.autoscaler.policies.hold import Wanted, most, remember
from services.autoscaler.policies.sound import nothing_to_decide, sound
from services.autoscaler.policies.view import Decision, View

_MOST_BOOTS = 10.0
"""No worker is held for longer because spells are long."""
_LONGEST_S = 1e6


class TurboserveMemory(msgspec.Struct, frozen=True):
    learned: Learned
    wanted: Wanted = ()


class Turboserve(msgspec.Struct, frozen=True, tag="turboserve"):
    """`z`: how many deviations of the forecast to be ready for. `hold_boots`: how many boot times a worker
    is kept after it was last wanted; `hold_spells`: or for so much of an active spell, if that is longer:
    what long spells leave free has to be moved together. `arrivals_s`: how long an arrival counts for the
    rate of arrivals. `fill`: of a worker's capacity, what to plan for: with less, sessions are more often
    alone. `forecast` False: sized for the load of now. `undrain`: take back what drains before buying.
    """

    z: float = 4.0
    hold_boots: float = 1.0
    hold_spells: float = 0.1
    arrivals_s: float = 25.0
    fill: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    forecast: bool = True
    undrain: bool = True

    def decide(self, view: View, memory: TurboserveMemory | None) -> Decision:
        view = sound(view)
        if not view.kinds:
            return nothing_to_decide(view, memory)
        learned = self._learn(view, memory)
        kind = view.kinds[0]
        needed, reason = self._needed(view, learned, kind.boot_s)
        count = math.ceil(needed / (kind.capacity * self.fill) - 1e-9)
        wanted = memory.wanted if memory is not None else ()
        wanted = remember(wanted, view.now_s, count, self.hold_s(learned, kind.boot_s))
        desired = clamp(most(wanted) + view.spare, view)
        if most(wanted) > count:
            reason += f"; {most(wanted)} were wanted {view.now_s - wanted[0][0]:.0f} s ago"
        change = to_capacity(desired, view, undrain=self.undrain)
        return Decision(desired, change, reason, TurboserveMemory(learned, wanted))

    def hold_s(self, learned: Learned, boot_s: float) -> float:
        """How long a worker is kept after it was last wanted."""
        spells_s = self.hold_spells * min(learned.spell_s, _LONGEST_S)
        return max(self.hold_boots * boot_s, min(spells_s, _MOST_BOOTS * boot_s))

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
