"""Where the state of a session is that waits to go on, and whether it can be brought to another worker."""

from __future__ import annotations

from collections.abc import Container, Mapping

import msgspec

from services.placement import move_rules
from services.placement.room import OVER
from shared.contracts.fleet import CopyReport, LoadReport
from shared.store.rows import SessionRow

_TIERS = frozenset({"device", "host"})


def home_of(row: SessionRow, held: Mapping[str, CopyReport], alive: Container[str]) -> str:
    """Who owns it while it is paused, else who has the newest copy that can go on. "": nobody. `held`: its
    copies, by worker. `alive`: those that were heard lately.
    """
    if row.worker in alive:
        return row.worker
    usable = [(copy.epoch, worker) for worker, copy in held.items() if copy.state not in OVER]
    return max(usable)[1] if usable else ""


def can_give(row: SessionRow, copy: CopyReport | None) -> bool:
    """Whether home may hand its copy over: it is the last owner's, has the state, and makes nothing now."""
    if copy is None or copy.epoch != row.epoch or copy.state != "paused":
        return False
    return copy.tier in _TIERS and (not copy.move_id or copy.committed)


def may_go(row: SessionRow, home: str, target: str, reports: Mapping[str, LoadReport]) -> bool:
    """Whether the state may be sent from `home` to `target`, of which a decision knows that it has room.
    `reports`: of the workers that are alive.
    """
    if home not in reports:
        return False
    return move_rules.refuse_target(owned_by(row, home), target, reports, None) is None


def owned_by(row: SessionRow, home: str) -> SessionRow:
    """As the rules of moves want to see it: as if `home` owned it."""
    return msgspec.structs.replace(row, worker=home)
