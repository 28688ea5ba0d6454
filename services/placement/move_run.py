"""One move from the target's reservation to its first chunk in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.placement import hand_over, metrics
from services.placement.facts import Event, HandedOver
from services.placement.hand_over import CallOff, Commit, HandBack, Ongoing, Over
from services.placement.live import Live
from services.placement.phases import timed
from shared.bus import BusAway, NoAnswer, Refused
from shared.contracts.fleet import Drop, LoadReport, PhaseTime
from shared.contracts.moves import Move, MoveNews, SessionMoved

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_LAST_WORD_S = 0.3
_WITHOUT_STATE = frozenset({"nothing_to_move", "better_rebuilt"})
"""The source's refusals: its copy has no state yet, or the link is too slow for it."""


class Run:
    """`hand_over` until the target has the state or the move is over, then `follow` to its end."""

    def __init__(
        self,
        placement: Placement,
        live: Live,
        going: Ongoing,
        source: LoadReport,
        target: LoadReport,
        phases: list[PhaseTime],
    ) -> None:
        """`phases`: those it took to come here. `ordered`: the source was told to begin."""
        self.move: Move = going.move
        self._placement = placement
        self._live = live
        self._going = going
        self._source = source
        self._target = target
        self._deadline_at = time.time() + going.since + going.within_s - time.monotonic()
        self._phases = phases
        self.ordered = False
        self._over: Over | None = None
        self._answer: asyncio.Future[SessionMoved] = asyncio.get_running_loop().create_future()

    @property
    def outcome(self) -> str:
        """As in `SessionMoved`, by what is known so far."""
        return self._over.outcome if self._over is not None else "moved"

    @property
    def phases(self) -> list[PhaseTime]:
        """Placement's own, so far."""
        return list(self._phases)

    @property
    def fetched_s(self) -> float:
        """How long the source needed to bring a suspended state to its device, as it would have anyway."""
        said = self._said(self.move.source)
        return sum(phase.duration_s for phase in said.phases if phase.name == "fetch") if said else 0.0

    def _left_s(self) -> float:
        """Until the state must be there."""
        return max(0.0, self._going.since + self._going.within_s - time.monotonic())

    async def answered(self) -> SessionMoved:
        """What its operator is told, as soon as nothing can undo it, or the time is up."""
        return await asyncio.shield(self._answer)

    async def hand_over(self) -> None:
        """Until both workers need each other no longer."""
        voice, move = self._placement.voice, self.move
        try:
            async with asyncio.timeout(self._left_s()):
                with timed(self._phases, "reserve"):
                    await voice.ask_reserve(move, self._live.known, self._source.model, self._deadline_at)
                self.ordered = True
                with timed(self._phases, "order"):
                    offered, waited_for = self._target.transports, bool(self._going.home)
                    await voice.ask_move_out(move, offered, self._deadline_at, waited_for=waited_for)
        except TimeoutError:
            self._over = self._not_begun("its workers didn't answer in time")
        except Refused as refused:
            if refused.refusal.code in _WITHOUT_STATE:
                await self._place(str(refused))
            else:
                self._over = self._not_begun(str(refused))
        except (NoAnswer, BusAway) as error:
            self._over = self._not_begun(str(error))
        if self._over is None:
            with timed(self._phases, "carry"):
                await self._until(lambda: self._going.committed(self._live.row))

    def _not_begun(self, why: str) -> Over | None:
        """None: it was, and only the answer got lost."""
        return None if self._going.said(self.move.target, "arrived", "owner") else Over("stayed", why)

    async def follow(self) -> None:
        """To the very end, also once its operator was answered."""
        try:
            if self._over is None:
                with timed(self._phases, "prove"):
                    await self._until(self._may_answer)
            over = self._over or Over("moved")
            if over.outcome == "moved":
                await self._hear_out()
            elif over.outcome != "placed":
                await self._call_off(over.why)
            self._say(over)
            await self._until(lambda: False)
        finally:
            await self._end()

    async def _hear_out(self) -> None:
        """The source's last word has the rest of its phases. It comes when it drops its copy."""
        self._placement.nudged.set()
        deadline = time.monotonic() + _LAST_WORD_S
        while not self._going.said(self.move.source, "gone") and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def _may_answer(self) -> bool:
        """A session that makes no chunk now can't prove anything; its target was told that it owns it."""
        row, going = self._live.row, self._going
        late = time.monotonic() - going.since > going.within_s
        secure = hand_over.is_secure(row, hand_over.targets_copy(self.move, self._placement.fleet))
        return going.committed(row) and (secure or late)

    async def _until(self, enough: Callable[[], bool]) -> None:
        """Do what is to be done, whenever something was heard, until that is enough or the move over."""
        live = self._live
        while self._over is None:
            live.stirred.clear()
            await self._act()
            if self._over is not None or enough():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_again_s()):
                    await live.stirred.wait()

    def _look_again_s(self) -> float:
        left_s = self._left_s()
        return min(_LOOK_EVERY_S, left_s + 0.01) if left_s > 0 else _LOOK_EVERY_S

    async def _act(self) -> None:
        live, placement, now = self._live, self._placement, time.monotonic()
        match hand_over.decide(self._going, live.row, placement.fleet, now, placement.bus.connected_s):
            case Commit():
                await self._happen(self._commit())
            case HandBack(why):
                await self._happen(hand_over.hand_back(live.row, self.move, placement.fleet, now, why))
            case CallOff(why):
                self._over = Over("stayed", why)
            case Over() as over:
                self._over = over

    def _commit(self) -> HandedOver:
        going = self._going
        return HandedOver(self.move.target, going.incarnation, self.move.target_epoch, going.decision)

    async def _happen(self, event: Event) -> None:
        try:
            await self._placement.happen(self._live, event)
        except Refused as refused:
            logger.info("a move waits for the store: %s", refused, extra={"session": self.move.session})

    async def _place(self, why: str) -> None:
        """Without its state: the target begins the session, rebuilds it or resumes it, as its next owner."""
        await self._call_off(why)
        if self._going.home and self._live.row.status != "queued":  # it is to wait where its state is
            self._over = Over("stayed", why)
            return
        self._live.move = None
        self._over = Over("placed", why)
        try:
            await self._placement.happen(self._live, self._commit())
        except Refused as refused:
            self._over = Over("stayed", str(refused))

    async def _call_off(self, why: str) -> None:
        for worker in (self.move.target, self.move.source):
            await self._placement.voice.call_off(worker, self.move.move_id, why)

    def _say(self, over: Over) -> None:
        self._going.answered = True
        moved = self._told(over)
        level = logging.INFO if over.outcome == "moved" else logging.WARNING
        what = {"session": moved.session, "worker": self._live.row.worker, "reason": over.why}
        logger.log(level, "%s: from %s to %s", over.outcome, moved.source, moved.target, extra=what)
        _count(moved)
        if not self._answer.done():
            self._answer.set_result(moved)

    async def _end(self) -> None:
        live = self._live
        if live.move is self._going:
            live.move = None
        if not self._answer.done():
            self._answer.set_result(self._told(Over("stayed", "placement stops")))
        if live.row.ended:
            self._placement.voice.drop(self.move.target, Drop(live.row.id, self.move.target_epoch))
        self._placement.nudged.set()  # the source's copy may be of no use any more

    def _told(self, over: Over) -> SessionMoved:
        move, sent = self.move, self._said(self.move.source)
        phases = [*self._phases, *_phases("source", sent), *_phases("target", self._said(move.target))]
        sent_bytes = max((news.sent_bytes for news in self._going.news.values()), default=0)
        pause_s = self._pause_s()
        return SessionMoved(
            move.session, move.source, move.target, over.outcome, over.why, pause_s, sent_bytes, phases
        )

    def _said(self, worker: str) -> MoveNews | None:
        """Its newest news, which tells of everything it did."""
        said = (news for (speaker, _), news in self._going.news.items() if speaker == worker)
        return max(said, key=lambda news: news.at, default=None)

    def _pause_s(self) -> float:
        """By the two workers' wall clocks; 0 if one of them was not heard."""
        frozen = self._going.said(self.move.source, "frozen")
        arrived = self._going.said(self.move.target, "arrived", "owner")
        return max(0.0, arrived.at - frozen.at) if frozen and arrived else 0.0


def _phases(side: str, news: MoveNews | None) -> list[PhaseTime]:
    done = news.phases if news is not None else []
    return [PhaseTime(f"{side} {phase.name}", phase.duration_s) for phase in done]


def _count(moved: SessionMoved) -> None:
    metrics.moves.labels(moved.outcome).inc()
    if moved.outcome != "moved":
        return
    metrics.move_pause_s.observe(moved.pause_s)
    metrics.move_bytes.inc(moved.sent_bytes)
    for phase in moved.phases:
        if phase.name == "carry":
            metrics.move_carry_s.observe(phase.duration_s)
