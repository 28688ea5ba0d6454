"""Moving a session to another worker while it plays: what `hand_over` decides, done and told.

One state at a time leaves a worker, and one comes to it: two would share a link and both take longer. Nor do
two moves go opposite ways between the same two: each worker would refuse the other's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from services.placement import homes, move_rules
from services.placement.facts import MoveProposed
from services.placement.hand_over import Ongoing
from services.placement.live import Live
from services.placement.move_run import Run
from services.placement.phases import timed
from services.placement.room import Room
from shared.bus import Meta, Refused
from shared.contracts.fleet import LoadReport, PhaseTime
from shared.contracts.moves import Move, MoveNews, SessionMoved
from shared.contracts.session import Refusal
from shared.contracts.subjects import MOVE_NEWS
from shared.store.rows import SessionRow

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

BUSY = frozenset({"busy", "busy_moving"})
"""Refusals of a move that another moment may answer otherwise."""
_MAX_WAITING = 48
_TURN_WITHIN_S = 5.0
"""For how long a move waits for those before it, once at each of its workers."""


class Wanted(NamedTuple):
    """`to`: a worker, "": whichever has most room. `turn_s`: for how long it may wait for other moves, at
    each of its workers. `decision`: who wants it, "" for an operator. `home`: who has the state, of a queued
    session that nobody owns; "": its owner. `until`: when the target must have the state, waiting included,
    monotonic; None: in the usual time. `target_epoch`: given already, by the decision that wants it; 0: not
    yet.
    """

    to: str
    turn_s: float = _TURN_WITHIN_S
    decision: str = ""
    home: str = ""
    until: float | None = None
    target_epoch: int = 0

    def left_s(self) -> float:
        """For how long it may wait for a turn from now on."""
        return self.turn_s if self.until is None else min(self.turn_s, self.until - time.monotonic())


def _as_owned(row: SessionRow, home: str) -> SessionRow:
    """A queued session is its home's to give."""
    return homes.owned_by(row, home) if home and row.status == "queued" else row


class Mover:
    """Carries out moves, and hears of those under way."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._claimed: set[str] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._following: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        await self._placement.bus.subscribe(MOVE_NEWS, self._hear, cell=self._placement.settings.cell)

    def _hear(self, news: MoveNews, meta: Meta) -> None:
        live = self._placement.sessions.live.get(news.session)
        going = live.move if live is not None else None
        if live is None or going is None or going.move.move_id != news.move_id:
            return
        if meta.tokens["worker"] == news.worker:
            going.hear(news)
            live.stirred.set()

    def hear_report(self, report: LoadReport) -> None:
        """A copy in it may say how far a move has come."""
        for copy in report.copies:
            live = self._placement.sessions.live.get(copy.session)
            if live is not None and live.move is not None:
                live.stirred.set()

    async def move(self, live: Live, to: str = "") -> SessionMoved:
        """Have worker `to` ("": whichever has most room) go on with the session, and say what came of it.

        Raises `Refused` for what can't be tried.
        """
        return await (await self.hand_over(live, Wanted(to))).answered()

    async def hand_over(self, live: Live, wanted: Wanted) -> Run:
        """As `move`, but only until the target has the session or the move is over."""
        self._target(live, wanted)
        with self._claim(live):
            async with contextlib.AsyncExitStack() as turns:
                source = wanted.home or live.row.worker
                await turns.enter_async_context(self.turn(f"from {source}", wanted.left_s()))
                target = self._target(live, wanted)
                await turns.enter_async_context(self.turn(f"to {target}", wanted.left_s()))
                both = " and ".join(sorted((source, target)))
                await turns.enter_async_context(self.turn(f"between {both}", wanted.left_s()))
                wanted = wanted._replace(to=target)
                self._target(live, wanted)
                return await self._handed_over(live, wanted)

    async def _handed_over(self, live: Live, wanted: Wanted) -> Run:
        run = await self._begin(live, wanted)
        try:
            await run.hand_over()
        finally:
            self._follow(run)
        return run

    @contextlib.contextmanager
    def _claim(self, live: Live) -> Iterator[None]:
        """From the request until the move is the session's (`Live.move`)."""
        if live.row.id in self._claimed or live.move is not None:
            message = f"session {live.row.id} is being moved already"
            if live.move is not None and live.move.answered:
                message = f"session {live.row.id} has just been moved and made no chunk since"
            raise Refused("busy_moving", message, "try again in a moment")
        if len(self._claimed) >= _MAX_WAITING:
            raise Refused("busy", f"{_MAX_WAITING} moves wait already", "try again in a moment")
        self._claimed.add(live.row.id)
        try:
            yield
        finally:
            self._claimed.discard(live.row.id)

    @contextlib.asynccontextmanager
    async def turn(self, where: str, turn_s: float) -> AsyncIterator[None]:
        """First come, first served. Raises `Refused` if it takes too long."""
        lock = self._turns.setdefault(where, asyncio.Lock())
        try:
            async with asyncio.timeout(turn_s):
                await lock.acquire()
        except TimeoutError:
            message = f"other moves {where} are under way"
            raise Refused("busy", message, "try again in a moment") from None
        try:
            yield
        finally:
            lock.release()

    def _target(self, live: Live, wanted: Wanted) -> str:
        """A worker that may be tried, by what is known now. Raises `Refused`."""
        reports, rooms = self._fleet()
        row = _as_owned(live.row, wanted.home)
        refusal = move_rules.refuse_session(row, reports)
        chosen: str | Refusal = wanted.to
        if refusal is None and wanted.to:
            refusal = move_rules.refuse_target(row, wanted.to, reports, None if wanted.decision else rooms)
        elif refusal is None:
            chosen = move_rules.best_target(row, reports, rooms)
        refusal = chosen if isinstance(chosen, Refusal) else refusal
        if refusal is not None:
            raise Refused(refusal.code, refusal.message, refusal.hint)
        assert isinstance(chosen, str)
        return chosen

    def _fleet(self) -> tuple[dict[str, LoadReport], dict[str, Room]]:
        placement = self._placement
        rooms = {room.worker: room for room in placement.rooms()}  # first: who falls silent is in neither
        return {report.worker: report for report in placement.reports()}, rooms

    async def _begin(self, live: Live, wanted: Wanted) -> Run:
        """The target's epoch is saved before anybody is told of it: it is never given again."""
        target, decision = wanted.to, wanted.decision
        started, phases = time.monotonic(), list[PhaseTime]()
        with timed(phases, "propose"):
            row = await self._proposed(live, wanted)
        if row is None or row.ended or not row.worker or row.worker == target:
            raise Refused("not_owned", f"session {live.row.id} changed hands just now", "look where it is")
        move = Move(f"{row.id}.{row.given_epoch}", row.id, row.worker, target, row.epoch, row.given_epoch)
        reports, _ = self._fleet()
        if not {row.worker, target} <= reports.keys():
            raise Refused("worker_not_found", "a worker fell silent just now", "try again in a moment")
        self._target(live, wanted)  # a decision may have filled it meanwhile
        within_s = self._placement.settings.move_s if wanted.until is None else wanted.until - started
        home = reports[row.worker].incarnation if wanted.home else ""
        live.move = Ongoing(move, reports[target].incarnation, started, within_s, decision, home)
        logger.info("moving to %s", target, extra={"session": row.id, "worker": row.worker})
        return Run(self._placement, live, live.move, reports[row.worker], reports[target], phases)

    async def _proposed(self, live: Live, wanted: Wanted) -> SessionRow | None:
        """With the target's epoch given. None: it isn't anybody's to move now."""
        if wanted.target_epoch:
            row = _as_owned(live.row, wanted.home)
            return row if row.epoch < row.given_epoch == wanted.target_epoch else None
        changed = await self._placement.change(live, lambda row: [MoveProposed(row.epoch)])
        return None if changed.before is changed.row else changed.row

    def _follow(self, run: Run) -> None:
        """To its end, also once its operator was answered: the target's first chunk may be hours away."""
        task = asyncio.create_task(run.follow(), name=f"move {run.move.move_id}")
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def settle(self, live: Live) -> None:
        """Wait until the session is in nobody's hands but its owner's, or that has taken too long."""
        deadline = time.monotonic() + self._placement.settings.move_s
        while time.monotonic() < deadline and (
            live.row.id in self._claimed or (live.move is not None and not live.move.answered)
        ):
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """What is under way goes on without this process; the next one sees by copies what became of it."""
        for task in self._following:
            task.cancel()
        if self._following:
            await asyncio.wait(self._following, timeout=1.0)
