"""The two decisions, one after the other, at every tick in which something has changed: the placement that
a view of the sessions leads to, then the fleet that its load leads to.
"""

from __future__ import annotations

import itertools
import math
import time

import msgspec

from bench.sim.fleet import Fleet
from bench.sim.parts import SimSession
from bench.sim.world import World
from services.autoscaler.policies import view as fleet_view
from services.placement.policies import view as placement_view
from services.placement.policies.view import Act, Memory, Move, Place, StepDown, StepUp, Suspend

TICK_S = 0.02
_LONGEST_S = 1.0
_TIMED = 50
"""One decision in so many is timed: asking for processor time can take longer than deciding."""
_ROUNDS = 3
"""Without boot time what was ordered serves at once: placed anew, at most so often in a tick."""


class Limits(msgspec.Struct, frozen=True):
    minimum: int
    maximum: int
    node_size: int = 1


class Control:
    """`counts` are kept by whoever feeds the trace in. `floor_weight`: what a session takes one step down."""

    def __init__(
        self,
        world: World,
        placement: placement_view.Policy,
        fleet_policy: fleet_view.Policy,
        limits: Limits,
        floor_weight: float = 1.0,
    ) -> None:
        self.world = world
        self.fleet: Fleet | None = None
        self.counts = fleet_view.Counts()
        self.idle = 0
        self._placement = placement
        self._fleet_policy = fleet_policy
        self._limits = limits
        self._floor_weight = floor_weight
        self._seen: dict[str, placement_view.Session] = {}
        self._stale: dict[str, SimSession] = {}
        self._memory = Memory()
        self._fleet_memory: object = None
        self._tick_at_s = math.inf
        self._changed = self._timed = False
        self._spent_s = 0.0
        self._decisions = itertools.count()
        self._rho_max = 0.0

    def watched_empty(self, idle_s: float) -> None:
        """Until now, which is the beginning, there was nobody for so long, and the fleet's policy saw it."""
        view = self._fleet_view()
        before = msgspec.structs.replace(view, now_s=view.now_s - idle_s)
        self._fleet_memory = self._fleet_policy.decide(before, None).memory

    # What has changed, and when to look.

    def touch(self, session: SimSession | None = None) -> None:
        """To be called when a session or the fleet has changed."""
        if session is not None:
            self._stale[session.name] = session
        self._changed = True
        self._wake((math.floor(self.world.now_s / TICK_S + 1e-9) + 1) * TICK_S)

    def _wake(self, at_s: float) -> None:
        if at_s < self._tick_at_s:
            self._tick_at_s = at_s
            self.world.at(at_s, self._tick, at_s)

    def _tick(self, at_s: float) -> None:
        if at_s != self._tick_at_s:
            return
        self._tick_at_s = math.inf
        ask_again_s = self.decide()
        self._wake(self.world.now_s + min(max(ask_again_s, TICK_S), _LONGEST_S))

    # Deciding.

    def decide(self) -> float:
        """Place, then scale; again while new workers are ready at once. Returns when to ask again."""
        self._spent_s, ask_again_s = 0.0, _LONGEST_S
        self._timed = next(self._decisions) % _TIMED == 0
        for _ in range(_ROUNDS):
            self._place()
            ask_again_s = self._scale()
            if not self._changed:
                break
        if self._timed:
            self.world.meter.decisions_s.append(self._spent_s)
        return ask_again_s

    def _clock_s(self) -> float:
        return time.thread_time() if self._timed else 0.0

    def _place(self) -> None:
        view = self._placement_view()
        begun_s = self._clock_s()
        decision = self._placement.decide(view, self._memory)
        self._spent_s += self._clock_s() - begun_s
        for queued in decision.waiting:
            self._stale[queued.session] = self.world.sessions[queued.session]
        self._memory, self._rho_max, self._changed = decision.memory, decision.rho_max, False
        for act in decision.acts:
            self._carry_out(act)
        waiting = [self.world.sessions[w.session].active_from_s for w in decision.waiting]
        self.world.meter.advance(self.world.now_s)
        self.world.meter.oldest_wait_from_s = min(waiting, default=math.inf)

    def _carry_out(self, act: Act) -> None:
        session = self.world.sessions[act.session]
        workers = self._fleet.workers
        self._stale[session.name] = session
        if isinstance(act, Place):
            self.world.place(session, workers[act.worker])
        elif isinstance(act, Move):
            self.world.move(session, workers[act.target])
        elif isinstance(act, Suspend):
            self.world.suspend(session)
        elif isinstance(act, StepDown):
            self.world.step(session, self._floor_weight)
        elif isinstance(act, StepUp):
            self.world.step(session, 1.0)
        else:
            self.world.refuse(session)

    @property
    def _fleet(self) -> Fleet:
        assert self.fleet is not None
        return self.fleet

    def _placement_view(self) -> placement_view.View:
        seen = self._seen
        self._stale |= self.world.shifted
        self.world.shifted.clear()
        for name, session in self._stale.items():
            if session.gone or session.refused or not (session.active or session.here):
                seen.pop(name, None)
            else:
                seen[name] = self._seen_session(session)
        self._stale.clear()
        meter, spell_s = self.world.meter, self._spell_s()
        return placement_view.View(
            now_s=self.world.now_s,
            workers=tuple([worker.seen_placement for worker in self._fleet.workers.values()]),
            sessions=tuple(seen.values()),
            chunk_s=self.world.profile.chunk_s,
            freed_per_s=(meter.active - meter.queued) / spell_s,
            spell_s=spell_s,
            start_s=self.world.profile.resume_s,
        )

    def _seen_session(self, session: SimSession) -> placement_view.Session:
        profile = self.world.profile
        waiting = session.active and session.here is None
        away_s = profile.resume_elsewhere_s - profile.resume_s
        return placement_view.Session(
            session=session.name,
            active=session.active,
            since_s=session.active_from_s,
            worker=session.here.name if session.here else "",
            home=session.home.name if session.home else "",
            move_cost_s=profile.move_s,
            away_cost_s=away_s if waiting and session.chunks else 0.0,
            weight=session.weight,
            floor_weight=self._floor_weight,
            beat_s=self.world.beat_s(session),
        )

    def _spell_s(self) -> float:
        """Mean active spell so far, of those that ended."""
        ended = self.counts.idled + self.counts.departed_active
        return self.world.meter.active_s / ended if ended else 15.0

    def _scale(self) -> float:
        view = self._fleet_view()
        begun_s = self._clock_s()
        decision = self._fleet_policy.decide(view, self._fleet_memory)
        self._spent_s += self._clock_s() - begun_s
        self._fleet_memory = decision.memory
        if decision.change:
            self._fleet.apply(decision.change)
        return decision.ask_again_s

    def _fleet_view(self) -> fleet_view.View:
        meter, workers = self.world.meter, self._fleet.workers.values()
        return fleet_view.View(
            now_s=self.world.now_s,
            workers=tuple([worker.seen_fleet for worker in workers]),
            loads=tuple([worker.active for worker in workers]),
            kinds=self._fleet.seen_kinds,
            active=meter.active,
            queued=meter.queued,
            idle=self.idle,
            counts=self.counts,
            rho_max=self._rho_max,
            minimum=self._limits.minimum,
            maximum=self._limits.maximum,
            node_size=self._limits.node_size,
        )
