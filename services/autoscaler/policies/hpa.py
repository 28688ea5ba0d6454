"""A target utilisation, as Kubernetes' HorizontalPodAutoscaler (v2) keeps it with its default behaviour.

Every `sync_s`: desired = ⌈workers × utilisation ÷ target⌉, nothing within the tolerance; workers that are
not ready count as idle when that means growing, and as at the target when it means shrinking; up by at most
4 or by 100 % in 15 s, down to the most that was wanted within the stabilisation window.
"""

from __future__ import annotations

import math

import msgspec

from services.autoscaler.policies.change import clamp, to_count
from services.autoscaler.policies.hold import Wanted, most, remember
from services.autoscaler.policies.sound import nothing_to_decide, sound
from services.autoscaler.policies.view import Decision, View


class HpaMemory(msgspec.Struct, frozen=True):
    synced_s: float = -math.inf
    wanted: Wanted = ()
    desired: int = 0


class Hpa(msgspec.Struct, frozen=True, tag="hpa"):
    """It knows no spare workers: a lower target is its way to have some. `target`: utilisation to keep,
    active sessions against capacity. `stabilise_s`: its window for shrinking.
    """

    target: float = 0.7
    tolerance: float = 0.1
    sync_s: float = 15.0
    stabilise_s: float = 300.0

    def decide(self, view: View, memory: HpaMemory | None) -> Decision:
        view = sound(view)
        if not view.kinds:
            return nothing_to_decide(view, memory)
        before = memory or HpaMemory(desired=clamp(_workers(view), view))
        left_s = min(before.synced_s, view.now_s) + self.sync_s - view.now_s
        if left_s > 0.0:
            return Decision(
                before.desired, to_count(before.desired, view), "between two syncs", before, left_s
            )
        wanted = remember(before.wanted, view.now_s, self.recommended(view), self.stabilise_s)
        desired = clamp(min(most(wanted), _at_most(_workers(view))), view)
        after = HpaMemory(view.now_s, wanted, desired)
        reason = f"{view.active} active, {self.target:.0%} of {view.kinds[0].capacity} a worker wanted"
        return Decision(desired, to_count(desired, view), reason, after, self.sync_s)

    def recommended(self, view: View) -> int:
        workers = _workers(view)
        ready = sum(worker.state == "ready" for worker in view.workers)
        capacity = view.kinds[0].capacity
        if not workers or not ready:
            return max(workers, 1)
        ratio = view.active / (ready * capacity) / self.target
        if abs(ratio - 1.0) <= self.tolerance:
            return workers
        if ready < workers:
            unready = workers - ready
            load = view.active + (0.0 if ratio > 1.0 else unready * capacity * self.target)
            cautious = load / (workers * capacity) / self.target
            if abs(cautious - 1.0) <= self.tolerance or (cautious > 1.0) != (ratio > 1.0):
                return workers
            ratio = cautious
        return math.ceil(ratio * workers)


def _workers(view: View) -> int:
    return sum(worker.state != "draining" for worker in view.workers)


def _at_most(workers: int) -> int:
    return max(workers + 4, 2 * workers)
