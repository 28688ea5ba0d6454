"""Placement's policies by name. The autoscaler's registry has the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from services.placement.policies.least_loaded import LeastLoadedAtResume, LeastLoadedForLife
from services.placement.policies.memory_greedy import MemoryGreedy
from services.placement.policies.paper import Paper
from services.placement.policies.round_robin import RoundRobinForLife
from services.placement.policies.turboserve import Turboserve
from services.placement.policies.view import Policy

POLICIES: dict[str, type[msgspec.Struct]] = {
    "fixed-rr": RoundRobinForLife,
    "fixed-ll": LeastLoadedForLife,
    "ll-resume": LeastLoadedAtResume,
    "memory-greedy": MemoryGreedy,
    "hpa": LeastLoadedAtResume,
    "paper": Paper,
    "turboserve": Turboserve,
}


def named(name: str, settings: Mapping[str, Any]) -> Policy:
    """Raises KeyError for an unknown name, msgspec.ValidationError for a setting of the wrong kind."""
    kind = POLICIES[name]
    known = {key: value for key, value in settings.items() if key in kind.__struct_fields__}
    policy: Any = msgspec.convert(known | {"type": kind.__struct_config__.tag}, kind)
    return cast(Policy, policy)
