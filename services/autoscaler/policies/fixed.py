"""The fleet never changes: all that may be had."""

from __future__ import annotations

import msgspec

from services.autoscaler.policies.change import clamp, to_count
from services.autoscaler.policies.sound import nothing_to_decide, sound
from services.autoscaler.policies.view import Decision, View

_NEVER_S = 3600.0


class Fixed(msgspec.Struct, frozen=True, tag="fixed"):
    def decide(self, view: View, memory: None) -> Decision:
        view = sound(view)
        if not view.kinds:
            return nothing_to_decide(view, memory)
        desired = clamp(view.maximum, view)
        return Decision(desired, to_count(desired, view), "a fixed fleet", None, _NEVER_S)
