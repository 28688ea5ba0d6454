"""The fleet's policies by name. Placement's registry has the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from services.autoscaler.policies.fixed import Fixed
from services.autoscaler.policies.hpa import Hpa
from services.autoscaler.policies.paper import Paper
from services.autoscaler.policies.turboserve import Turboserve
from services.autoscaler.policies.view import Policy

POLICIES: dict[str, type[msgspec.Struct]] = {
    "fixed-rr": Fixed,
    "fixed-ll": Fixed,
    "ll-resume": Fixed,
    "memory-greedy": Fixed,
    "hpa": Hpa,
    "paper": Paper,
    "turboserve": Turboserve,
}


def named(name: str, settings: Mapping[str, Any]) -> Policy:
    """Raises KeyError for an unknown name, msgspec.ValidationError for a setting of the wrong kind."""
    kind = POLICIES[name]
    known = {key: value for key, value in settings.items() if key in kind.__struct_fields__}
    policy: Any = msgspec.convert(known | {"type": kind.__struct_config__.tag}, kind)
    return cast(Policy, policy)
