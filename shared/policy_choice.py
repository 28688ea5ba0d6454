"""Which policy a service follows, as operators say it: by name, with settings of its own as JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

PolicyName = Literal["fixed-rr", "fixed-ll", "ll-resume", "memory-greedy", "hpa", "paper", "turboserve"]
"""Placement and autoscaler have one policy of each name."""


def read_settings(text: str, known: Collection[str]) -> dict[str, Any]:
    """A policy's settings from JSON like {"z": 3}; `known`: the names it has; "": none given.

    Raises ValueError, in words.
    """
    if not text.strip():
        return {}
    try:
        given = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f'a policy\'s settings are a JSON object like {{"z": 3}}: {error}') from None
    if unknown := sorted(given.keys() - set(known)):
        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise ValueError(f"the policy has no setting {', '.join(map(repr, unknown))}; {has}")
    return given
