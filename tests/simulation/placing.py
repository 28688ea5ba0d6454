"""Where queued sessions go, by the policy that a running placement follows, as its ticks ask it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.placement.facts import Placed
from services.placement.fleet_view import FleetView
from services.placement.outlook import Standing, Terms, view_of
from services.placement.policies.turboserve import Turboserve
from services.placement.policies.view import Memory, Place
from shared.contracts.fleet import LoadReport
from shared.store.rows import SessionRow


def placings(
    rows: Iterable[SessionRow], reports: Sequence[LoadReport], fleet: FleetView, now: float
) -> list[tuple[str, Placed]]:
    """Session and event. `rows`: of all sessions."""
    standings = [
        Standing(row, row.created_at, row.worker if row.status == "active" else "")
        for row in rows
        if row.status in ("active", "queued")
    ]
    copies = {standing.row.id: fleet.holders(standing.row.id, now) for standing in standings}
    view = view_of(standings, reports, copies, Terms(now, {}, "", 15.0, 0.1, 10.0))
    incarnations = {report.worker: report.incarnation for report in reports}
    return [
        (act.session, Placed(act.worker, incarnations[act.worker]))
        for act in Turboserve(balance=False).decide(view, Memory()).acts
        if isinstance(act, Place)
    ]
