"""Decisions: the policy is asked when something changed, at most every 20 ms, and twice a second while
a session wants chunks; what it answers is carried out at once.

Nobody else decides which worker a session gets, but an operator who moves one (`moves`), and the log of a
move's two workers (`hand_over`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from services.placement import carry_out, metrics
from services.placement.carry_out import Context, Order, Resuming
from services.placement.facts import RefusedLater, Watched
from services.placement.live import Live
from services.placement.lookout import Lookout, Seen
from services.placement.moves import Wanted
from services.placement.phases import timed
from services.placement.policies.view import Decision, Memory, Move, Waiting
from services.placement.resumes import Sources
from shared.bus import BusAway, Refused
from shared.contracts.fleet import PhaseTime
from shared.decision_log import Decided
from shared.ids import new_decision_id
from shared.store.rows import SessionRow

if TYPE_CHECKING:
    from services.placement.service import Placement

logger = logging.getLogger(__name__)

_AT_MOST_EVERY_S = 0.02
_AT_LEAST_EVERY_S = 0.5
_TURNS_TOLD = 32
ANSWER_WITHIN_S = 3.0
"""How long a user who opened or resumed a session waits for a decision: mostly milliseconds, longer while the
store is slow. Later the session is queued as far as that user knows.
"""


class _Done(NamedTuple):
    """`sessions`: to which something happened. `handed_over`: those to whose new place their state goes."""

    sessions: set[str]
    handed_over: set[str]


class Ticks:
    """`rho_max`: as the last decision left it."""

    def __init__(self, placement: Placement) -> None:
        self.rho_max = 0.0
        self._placement = placement
        self._lookout = Lookout(placement)
        self._policy = placement.settings.make_policy()
        self._memory = Memory()
        self._waiting: dict[str, Waiting] = {}
        self._stirred = asyncio.Event()
        self._asking: list[asyncio.Future[None]] = []
        self._last_problem = ""

    def stir(self) -> None:
        """Something changed that a policy may care for."""
        self._stirred.set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AT_LEAST_EVERY_S):
                    await self._stirred.wait()
            self._stirred.clear()
            self._placement.fleet.observe(time.monotonic())  # a round of `Reconciler` may wait for the store
            await self._try()
            await asyncio.sleep(_AT_MOST_EVERY_S)

    async def decided(self, within_s: float) -> None:
        """Until a decision that began after this call was carried out, or the time is up."""
        asking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self.stir()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asking

    async def resume(
        self, live: Live, resumes: Resuming, phases: list[PhaseTime] | None = None
    ) -> SessionRow:
        """A paused session goes on: where its state is, elsewhere, or once there is room. `phases`: what took
        how long is added to them.

        Raises `Refused`.
        """
        phases = [] if phases is None else phases
        until = time.monotonic() + ANSWER_WITHIN_S
        with timed(phases, "place"):
            await self._resume(live, resumes)
        carried = await self._placement.resumes.arrived(live.row.id, until - time.monotonic())
        if carried is not None:
            phases += carried.phases
            if live.row.status == "queued":
                with timed(phases, "place"):
                    await self.decided(max(0.0, until - time.monotonic()))
        return live.known

    async def _resume(self, live: Live, resumes: Resuming) -> None:
        """Until that was decided: a decision leaves out whose row is just being saved."""
        if live.row.status == "paused":
            live.resuming, until = resumes, time.monotonic() + ANSWER_WITHIN_S
            while (left_s := until - time.monotonic()) > 0 and _undecided(live):
                await self.decided(left_s)
        if live.resuming is not None or live.doubtful:
            live.resuming = None
            await self._placement.change(live, lambda _: [resumes(owner_has_room=False)])

    def waiting(self, session: str) -> Waiting:
        """A queued session's turn, as the last decision has it; one that it didn't see comes last."""
        return self._waiting.get(session) or Waiting(session, len(self._waiting))

    async def _try(self) -> None:
        asking, self._asking = self._asking, []
        problem = ""
        try:
            await self._tick()
        except (Refused, BusAway) as error:
            problem = str(error)
        except Exception as error:
            problem = repr(error)
            if problem != self._last_problem:
                logger.exception("a decision failed")
        finally:
            for one in asking:
                if not one.done():
                    one.set_result(None)
        if problem and problem != self._last_problem:
            logger.warning("a decision was not carried out, trying again: %s", problem)
        self._last_problem = problem

    async def _tick(self) -> None:
        seen, memory = self._lookout.look(), self._memory
        if seen is None:
            self._waiting, self.rho_max = {}, 0.0
            return
        started = time.perf_counter()
        decision = self._policy.decide(seen.view, memory)
        spent_ms = (time.perf_counter() - started) * 1000
        metrics.decision_ms.labels(self._placement.settings.policy).observe(spent_ms)
        self._memory, self.rho_max = decision.memory, decision.rho_max
        before, self._waiting = self._waiting, {waiting.session: waiting for waiting in decision.waiting}
        name = new_decision_id("placement")
        done = await self._carry_out(decision, seen, name)
        if done.sessions:
            self._record(name, decision, seen, memory, done)
        await self._tell_turns(before, seen)

    async def _carry_out(self, decision: Decision, seen: Seen, name: str) -> _Done:
        sources = self._placement.resumes.sources(decision, seen)
        order = carry_out.order(decision, self._context(seen, name, sources))
        self._note_refusals(order, seen)
        wanted = [(seen.lives[session], events) for session, events in order.events.items()]
        with self._coming(order, seen):
            changed = await self._placement.change_many(wanted, name)
        self._placement.resumes.count(changed)
        for live in seen.lives.values():
            if live.row.status != "paused" or live.resuming is Watched:  # which is noticed again if need be
                live.resuming = None
        begun = {move.session for move in order.moves if self._begin(move, seen.lives[move.session], name)}
        epochs = {change.row.id: change.row.given_epoch for change in changed}
        handed = {act.session for act in order.hand_overs if act.session in epochs}
        for act in order.hand_overs:
            if act.session in handed:
                home, epoch = sources.homes[act.session], epochs[act.session]
                to_there = Wanted(act.worker, decision=name, home=home, target_epoch=epoch)
                self._placement.resumes.begin(seen.lives[act.session], to_there)
        return _Done(begun | epochs.keys(), handed)

    @contextlib.contextmanager
    def _coming(self, order: Order, seen: Seen) -> Iterator[None]:
        """Who is handed over is told so at once, not that it waits for room."""
        lives = [(seen.lives[act.session], act.worker) for act in order.hand_overs]
        for live, worker in lives:
            live.coming_to = worker
        try:
            yield
        finally:
            for live, _ in lives:
                live.coming_to = ""

    def _context(self, seen: Seen, name: str, sources: Sources) -> Context:
        return Context(
            {session: live.row for session, live in seen.lives.items()},
            {session: live.resuming for session, live in seen.lives.items() if live.resuming is not None},
            seen.incarnations,
            self._placement.settings.floor_rung,
            name,
            sources.homes,
            sources.later,
        )

    def _note_refusals(self, order: Order, seen: Seen) -> None:
        """For whoever waits to be told."""
        for session, events in order.events.items():
            for event in events:
                if isinstance(event, RefusedLater):
                    seen.lives[session].retry_after_s = event.retry_after_s

    def _begin(self, move: Move, live: Live, name: str) -> bool:
        """An operator's drain moves by itself."""
        if move.source in self._placement.draining or live.row.worker != move.source:
            return False
        return self._placement.transfers.begin(live, move.target, name)

    async def _tell_turns(self, before: Mapping[str, Waiting], seen: Seen) -> None:
        """Who is next hears that it has come forward; those far behind ask now and then."""
        for waiting in list(self._waiting.values())[:_TURNS_TOLD]:
            told, live = before.get(waiting.session), seen.lives[waiting.session]
            if told is not None and told.position != waiting.position and live.row.status == "queued":
                await self._placement.voice.changed(self._placement.view(live.known))

    def _record(self, name: str, decision: Decision, seen: Seen, memory: Memory, done: _Done) -> None:
        acts = [act for act in decision.acts if act.session in done.sessions]
        self._placement.recorder.record(
            Decided(
                name,
                time.time(),
                self._placement.settings.policy,
                carry_out.reason_of(acts, done.handed_over),
                sorted(done.sessions),
                carry_out.workers_of(acts),
                cast(Any, self._policy),
                seen.view,
                memory,
                decision,
            )
        )


def _undecided(live: Live) -> bool:
    """Whether it still waits for a decision that sees it. One whose row is in doubt is read first."""
    return live.resuming is not None and not (live.doubtful or live.row.ended)
