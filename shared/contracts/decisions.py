"""Decisions of placement and autoscaler, as they are kept to be explained and decided again."""

from __future__ import annotations

import msgspec


class DecisionRecord(msgspec.Struct, frozen=True):
    """One decision with everything it was a function of. `policy`, `view`, `memory` and `decision` are JSON
    of the service's own structs (`services.<service>.policies`), so that only who decides again must know
    them; compressed with zlib.

    `policy_name`: as it is selected. `at`: seconds since the epoch. `reason`: in one line. `sessions`,
    `workers`: whom it concerns.
    """

    id: str
    service: str
    instance: str
    at: float
    policy_name: str
    reason: str
    sessions: list[str]
    workers: list[str]
    policy: bytes
    view: bytes
    memory: bytes
    decision: bytes
