"""Taking a recorded decision again, by the same policy, to see whether the answer is the same."""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import msgspec

from services.autoscaler.policies.registry import POLICIES as FLEET_POLICIES
from services.placement.policies.registry import POLICIES as PLACEMENT_POLICIES
from turboserve.errors import TurboserveError
from turboserve.messages import DecisionRecord

_POLICIES = {"placement": PLACEMENT_POLICIES, "autoscaler": FLEET_POLICIES}
_OTHER_VERSION = "look at it with the turboserve that took it"


class Decided(NamedTuple):
    """A record as structs of its service's policies."""

    policy: Any
    view: Any
    memory: Any
    decision: Any


def read(record: DecisionRecord) -> Decided:
    """Raises TurboserveError: this version knows no such policy, or another one by that name."""
    about = record.about
    kind: Any = _POLICIES.get(about.service, {}).get(about.policy)
    if kind is None:
        message = f"this turboserve knows no policy {about.policy!r} of {about.service or 'nobody'}"
        raise TurboserveError("unknown_policy", message, _OTHER_VERSION)
    told: dict[str, Any] = get_type_hints(kind.decide)
    parts = (
        (record.settings, kind),
        (record.view, told["view"]),
        (record.memory, told["memory"]),
        (record.decision, told["return"]),
    )
    try:
        return Decided(*(msgspec.json.decode(raw, type=shape) for raw, shape in parts))
    except msgspec.MsgspecError as error:
        message = f"decision {about.id} was not taken by this version's policy {about.policy!r}: {error}"
        raise TurboserveError("other_policy", message, _OTHER_VERSION) from None


def decide_again(decided: Decided) -> Any:
    """What the policy decides now, from the same settings, view and memory."""
    return decided.policy.decide(decided.view, decided.memory)


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two decisions differ, in lines; none if they are the same. Both are compared as they are kept:
    as JSON.
    """
    return _differences(_plain(before), _plain(now), path)


def _plain(decision: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(decision))


def _differences(before: Any, now: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [
            line
            for name in names
            for line in _differences(before.get(name), now.get(name), f"{path}.{name}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for n, (old, new) in pairs for line in _differences(old, new, f"{path}[{n}]")]
    return [] if before == now else [f"{path or 'decision'}: was {before}, is now {now}"]
