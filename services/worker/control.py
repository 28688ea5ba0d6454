"""What placement tells a worker of its sessions: own, drop, drain; and which prompts it can judge.

Event loop only. What it tells of moves goes to `Mover`, which hears of every `Own` and `Drop` first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from nats.aio.subscription import Subscription

from services.worker.copies import Copy
from services.worker.dropped import DroppedEpochs
from services.worker.engine import Engine
from services.worker.holdings import Holdings, unsubscribe
from services.worker.mover.mover import Mover
from services.worker.refusals import refuse_unfit, refuse_unusable
from services.worker.stowing import Stowed as Outcome
from services.worker.texts import Texts
from services.worker.tiers import DEVICE, HOST
from shared.bus import Meta, Refused
from shared.contracts.fleet import (
    CheckPrompt,
    Drain,
    Draining,
    Drop,
    Dropped,
    Own,
    Owned,
    PromptChecked,
)
from shared.contracts.moves import Stow, Stowed
from shared.contracts.subjects import CHECK_PROMPT, DRAIN, DROP, OWN, STOW

_APPENDS_S = 1.0  # for chunks on their way to the log when their copy is dropped at a boundary


@dataclass(slots=True)
class Control:
    """Serves this worker's subjects between `start` and `refuse_all`."""

    holdings: Holdings
    mover: Mover
    dropped: DroppedEpochs
    texts: Texts
    engine: Engine
    on_state: Callable[[str], None]
    _subscriptions: list[Subscription] = field(default_factory=list)
    _drain_timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        desk = self.holdings.desk
        bus, cell, worker = desk.bus, desk.cell, desk.worker
        model = desk.spec.name
        self._subscriptions = [
            await bus.serve(OWN, self._own, cell=cell, worker=worker),
            await bus.serve(DROP, self._drop, cell=cell, worker=worker),
            await bus.serve(DRAIN, self._drain, cell=cell, worker=worker),
            await bus.serve(STOW, self._stow, cell=cell, worker=worker),
            await bus.serve(CHECK_PROMPT, self._check_prompt, queue="workers", cell=cell, model=model),
        ]

    async def refuse_all(self) -> None:
        """Take no further session and no further command."""
        self.holdings.draining = True
        for subscription in self._subscriptions:
            await unsubscribe(subscription)
        self._subscriptions.clear()
        if self._drain_timer is not None:
            self._drain_timer.cancel()

    async def _own(self, own: Own, _meta: Meta) -> Owned:
        refuse_unfit(own, self.holdings.desk.spec, time.time())
        if own.epoch <= self.dropped.through(own.session):
            raise Refused("stale", f"this worker was told to drop epoch {own.epoch} of {own.session}")
        await self.mover.heed(own)
        copy = await self._copy_for(own)
        await self.holdings.located(copy, own.deadline_at - time.time())
        refuse_unusable(copy, own)
        roster = self.holdings.desk.roster
        roster.apply(copy, own)
        await self.texts.want(copy, (own.deadline_at - time.time()) / 2)
        return roster.owned(copy)

    async def _copy_for(self, own: Own) -> Copy:
        """The copy that is to become what `own` says, a new one if need be."""
        roster = self.holdings.desk.roster
        copy = roster.get(own.session)
        if copy is not None and own.epoch > copy.own.epoch and not await self.holdings.is_newest(copy):
            await self.holdings.let_go(copy)
            copy = roster.get(own.session)
        if copy is None and own.move_id:
            raise Refused("freed", f"{own.session} didn't arrive by {own.move_id}, or is gone again")
        return copy or await self.holdings.take(own)

    async def _drop(self, drop: Drop, _meta: Meta) -> Dropped:
        roster = self.holdings.desk.roster
        copy = roster.get(drop.session)
        if copy is not None and drop.unless_past is not None and copy.own.epoch <= drop.epoch:
            await self.holdings.appended(copy, _APPENDS_S)
            if not roster.remove_at(copy, drop.unless_past):
                return Dropped(held=False)
        self.dropped.note(drop.session, drop.epoch)
        await self.mover.dropped(drop.session, drop.epoch)
        if copy is None or copy.arriving or copy.own.epoch > drop.epoch:
            return Dropped(held=copy is not None and copy.gone)
        await self.holdings.let_go(copy)
        return Dropped(held=True)

    async def _drain(self, drain: Drain, _meta: Meta) -> Draining:
        self.holdings.draining = True
        self.on_state("draining")
        loop = asyncio.get_running_loop()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._drain_timer = loop.call_later(max(0.0, drain.deadline_at - time.time()), self.holdings.on_empty)
        self.holdings.end_drain_if_empty()
        return Draining(copies=len(self.holdings.desk.roster))

    async def _stow(self, stow: Stow, _meta: Meta) -> Stowed:
        copy = self.holdings.desk.roster.get(stow.session)
        left_s = stow.deadline_at - time.time()
        if left_s <= 0:
            raise Refused("too_late", "the command's deadline has passed", "repeat it with a new one")
        if stow.tier not in {DEVICE, HOST}:
            raise Refused("unknown_tier", f"there is no tier {stow.tier!r}", f"ask for {DEVICE} or {HOST}")
        if copy is None or copy.arriving:
            raise Refused("no_copy", f"this worker holds no copy of {stow.session}")
        if copy.own.epoch != stow.epoch:
            raise Refused("stale", f"the copy of {stow.session} has epoch {copy.own.epoch}")
        try:
            async with asyncio.timeout(left_s):
                return await self._stowed(copy, stow.tier)
        except TimeoutError:
            raise Refused("busy", f"the state of {stow.session} stays in use", "try again later") from None

    async def _stowed(self, copy: Copy, tier: str) -> Stowed:
        states = self.engine.states
        stowing: Future[Outcome] = self.engine.errands.put(lambda: states.stow(copy, tier), soon=True)
        done = await asyncio.wrap_future(stowing)
        return Stowed(done.tier, done.bytes, done.phases)

    async def _check_prompt(self, check: CheckPrompt, _meta: Meta) -> PromptChecked:
        return PromptChecked(self.engine.runner.warnings(check.prompt))
