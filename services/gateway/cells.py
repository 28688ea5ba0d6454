"""The cells that this gateway serves, and which of them a request is for. A session's id names its cell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from services.gateway.commands import Placement
from services.gateway.feeds import Feeds
from services.gateway.fleet import FleetWatch, Readiness
from services.gateway.problems import Problem
from services.gateway.routing import CellState, choose_cell, merge
from shared.bus import NoAnswer
from shared.contracts.decisions import DecisionRecord
from shared.contracts.fleet import WorkerLoad
from shared.contracts.session import ListSessions, SessionPage
from shared.decision_log import DecisionLog
from shared.ids import cell_of


class Cell(NamedTuple):
    """One leader's fleet, as a gateway works with it."""

    name: str
    placement: Placement
    feeds: Feeds
    fleet: FleetWatch
    decisions: DecisionLog


class Cells:
    """At least one; the first is for what names none."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = {cell.name: cell for cell in cells}
        self._first = cells[0]

    def of(self, session_id: str) -> Cell:
        """The session's. What is no id here is refused there."""
        return self._cells.get(cell_of(session_id), self._first)

    def named(self, name: str) -> Cell:
        """`name` "": the first. Raises `Problem`."""
        if name and name not in self._cells:
            raise Problem(
                422,
                "invalid_field",
                f"cell: there is no {name[:60]!r} here",
                f"there are {', '.join(self._cells)}",
            )
        return self._cells[name] if name else self._first

    def for_opening(self, name: str, model: str, key: str) -> Cell:
        """`name`, `model`, `key`: as the caller gave them, else "". Raises `Problem`."""
        if name or len(self._cells) == 1:
            return self.named(name)
        return self._cells[choose_cell([_state(cell) for cell in self._cells.values()], model, key)]

    def of_worker(self, worker: str, name: str) -> Cell:
        """The cell `name`, or else the first that has such a worker. Raises `Problem`."""
        if not name:
            for cell in self._cells.values():
                if any(load.worker == worker for load in cell.fleet.workers() or ()):
                    return cell
        return self.named(name)

    async def page(self, asked: ListSessions) -> SessionPage:
        """Those of all cells. A cell that doesn't answer is left out, unless none does."""
        if len(self._cells) == 1:
            return await self._first.placement.page(asked)
        asking = [cell.placement.page(asked) for cell in self._cells.values()]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, NoAnswer):
                raise answer
        pages = [answer for answer in answers if isinstance(answer, SessionPage)]
        if not pages:
            raise NoAnswer("no placement answers")
        return merge(pages, asked.limit)

    def workers(self) -> list[tuple[str, WorkerLoad]] | None:
        """With their cells, None while every placement is silent."""
        told = [(cell.name, cell.fleet.workers()) for cell in self._cells.values()]
        if all(workers is None for _, workers in told):
            return None
        return [(cell, worker) for cell, workers in told for worker in workers or ()]

    def readiness(self) -> Readiness:
        """Ready as soon as one is."""
        told = {cell.name: cell.fleet.readiness() for cell in self._cells.values()}
        if len(told) == 1:
            return told[self._first.name]
        ready = any(one.ready for one in told.values())
        reasons = [f"{cell}: {reason}" for cell, one in told.items() for reason in one.reasons]
        return Readiness(
            ready,
            [] if ready else reasons,
            capacity=sum(one.capacity for one in told.values()),
            active=sum(one.active for one in told.values()),
            queued=sum(one.queued for one in told.values()),
            workers=sum(one.workers for one in told.values()),
        )

    async def newest_decisions(self, limit: int, service: str, session: str) -> list[DecisionRecord]:
        cells = [self.of(session)] if session else list(self._cells.values())
        found = [record for cell in cells for record in await cell.decisions.newest(limit, service, session)]
        return sorted(found, key=lambda record: record.at, reverse=True)[:limit]

    async def decision(self, decision_id: str) -> DecisionRecord | None:
        for cell in self._cells.values():
            if (record := await cell.decisions.get(decision_id)) is not None:
                return record
        return None


def _state(cell: Cell) -> CellState:
    told = cell.fleet.readiness()
    models = {model.name for model in cell.fleet.rules().models}
    return CellState(cell.name, told.ready, told.capacity - told.active - told.queued, models)
