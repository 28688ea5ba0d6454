"""Gathering what a policy is shown: rows, reports, and what is under way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from services.placement.live import Live
from services.placement.outlook import Copies, Standing, Terms, chunk_s, view_of
from services.placement.policies.view import View
from shared.contracts.fleet import CopyReport, LoadReport

if TYPE_CHECKING:
    from services.placement.service import Placement


class Seen(NamedTuple):
    """`lives`: the sessions of `view`. `incarnations`: of its workers."""

    view: View
    lives: Mapping[str, Live]
    incarnations: Mapping[str, str]


class _State(NamedTuple):
    """Of a worker, as it tells. `since_s` 0.0: it was ready when it was first heard."""

    state: str
    since_s: float


class Lookout:
    """For `Ticks`."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._states: dict[str, _State] = {}

    def look(self) -> Seen | None:
        """None: no session wants chunks."""
        now, placement = time.monotonic(), self._placement
        reports = placement.reports()
        self._states = {report.worker: self._state(report, now) for report in reports}
        standings = self._standings(reports, now)
        if not standings:
            return None
        view = view_of(standings, reports, self._copies(standings, now), self._terms(standings, now))
        lives = {standing.row.id: placement.sessions.live[standing.row.id] for standing in standings}
        return Seen(view, lives, {report.worker: report.incarnation for report in reports})

    def _state(self, report: LoadReport, now: float) -> _State:
        before = self._states.get(report.worker)
        if before is not None and before.state == report.state:
            return before
        long_ago = before is None and report.state == "ready"
        return _State(report.state, 0.0 if long_ago else now)

    def _standings(self, reports: Sequence[LoadReport], now: float) -> list[Standing]:
        """A waiting session whose row is just being saved, or may be another one than is known, could not be
        given a place now: it is left to the next decision. So is one whose state somebody may have who was
        not heard yet.
        """
        transfers, wall_now = self._placement.transfers, time.time()
        plays_s = {r.model.name: chunk_s(r.model) for r in reports if r.state != "starting"}
        found: list[Standing] = []
        for session, live in self._placement.sessions.live.items():
            target, stuck = transfers.target_of(session), transfers.stuck(session, now)
            anchored = not self._placement.resumes.able(live, now)
            one_s = plays_s.get(live.row.model, 1.0)
            standing = live.standing(target, stuck, now, wall_now, anchored=anchored, chunk_s=one_s)
            if standing is not None and (standing.going_to or self._may_be_placed(live, now)):
                found.append(standing)
        return found

    def _may_be_placed(self, live: Live, now: float) -> bool:
        if live.lock.locked() or live.doubtful:
            return False
        fleet, row = self._placement.fleet, live.row
        if not row.epoch or fleet.hears_all(now):
            return True
        return any(copy.epoch >= row.epoch for copy in fleet.holders(row.id, now).values())

    def _terms(self, standings: Sequence[Standing], now: float) -> Terms:
        tally, floor_rung = self._placement.sessions.tally, self._placement.settings.floor_rung
        running_s = sum(now - standing.since_s for standing in standings if standing.going_to)
        spell_s = tally.spell_s(running_s)
        holding = self._placement.resumes.holding(now)
        since_s = {worker: state.since_s for worker, state in self._states.items()}
        return Terms(now, since_s, floor_rung, spell_s, tally.move_pause_s, tally.away_s(now), holding)

    def _copies(self, standings: Sequence[Standing], now: float) -> Copies:
        found: dict[str, dict[str, CopyReport]] = {s.row.id: {} for s in standings if not s.going_to}
        if found:
            for worker, copy in self._placement.fleet.copies(now):
                if copy.session in found:
                    found[copy.session][worker] = copy
        return found
