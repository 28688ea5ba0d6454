"""The events: chunks that become due and are made, users who come and go, workers that boot."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from bench.sim.meter import Meter
from bench.sim.parts import NEVER_S, SimSession, SimWorker
from bench.sim.profiles import Profile

Handler = Callable[..., None]


class World:
    """What happens, in order. Whoever decides (`Control`) is told by whoever calls, not from here."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.meter = Meter()
        self.now_s = 0.0
        self.sessions: dict[str, SimSession] = {}
        self._events: list[tuple[float, int, Handler, tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()

    def at(self, at_s: float, handler: Handler, *given: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), handler, given))

    def run(self, end_s: float) -> None:
        """Everything before `end_s`."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] < end_s:
            self.now_s, _, handler, given = pop(events)
            handler(*given)
        self.now_s = end_s
        self.meter.advance(end_s)

    # What users do.

    def arrive(self, name: str) -> SimSession:
        session = self.sessions[name] = SimSession(name, next(self._numbers))
        return session

    def activate(self, session: SimSession) -> None:
        now_s = self.now_s
        self.meter.advance(now_s)
        session.active = True
        session.active_from_s = now_s
        if session.refused:
            self.meter.refused += 1
            return
        self.meter.active += 1
        self.meter.queued += 1
        if session.chunks:
            session.play_end_s += now_s
            session.before_end_s += now_s
        else:
            session.play_end_s = now_s
            session.wanted_s += now_s
        session.here = None
        session.due_s = max(now_s, session.before_end_s)

    def pause(self, session: SimSession) -> None:
        """Its user pauses. What lies between play and delivery stays for later."""
        self.meter.advance(self.now_s)
        session.active = False
        if session.refused:
            self.meter.refused -= 1
            return
        self.meter.active -= 1
        self._count_spell(session)
        if session.here is None:
            self.meter.queued -= 1
        else:
            self._let_go(session, session.here)
        if session.chunks:
            session.play_end_s = max(0.0, session.play_end_s - self.now_s)
            session.before_end_s = max(0.0, session.before_end_s - self.now_s)
        else:
            session.wanted_s -= self.now_s

    def depart(self, session: SimSession) -> None:
        if session.active:
            self.pause(session)
        session.gone = True
        session.here = None
        del self.sessions[session.name]

    def refuse(self, session: SimSession) -> None:
        self.meter.advance(self.now_s)
        session.refused = True
        self.meter.refusals += 1
        self.meter.active -= 1
        self.meter.queued -= 1
        self.meter.refused += 1

    def _count_spell(self, session: SimSession) -> None:
        """At the end of an active spell: what was played in it, and what stood still."""
        now_s, meter = self.now_s, self.meter
        if not session.chunks:
            waiting_s = now_s - session.active_from_s if session.here is None else 0.0
            meter.unstarted_s += session.queued_s + waiting_s
            session.queued_s = 0.0
            return
        meter.stalled_s += max(0.0, now_s - max(session.play_end_s, session.active_from_s))
        meter.played_s += now_s - session.active_from_s

    # Who has whom.

    def place(self, session: SimSession, worker: SimWorker) -> None:
        now_s, profile = self.now_s, self.profile
        self.meter.advance(now_s)
        self.meter.queued -= 1
        self.meter.load(worker, 1)
        if not session.chunks:
            session.queued_s += now_s - session.active_from_s
            delay_s = profile.start_s
        else:
            delay_s = profile.resume_s if session.home is worker else profile.resume_elsewhere_s
        session.here = session.home = worker
        session.not_before_s = now_s + delay_s
        self._plan(session)

    def move(self, session: SimSession, target: SimWorker) -> None:
        source = session.here
        assert source is not None
        self.meter.advance(self.now_s)
        self.meter.moves += 1
        self._let_go(session, source)
        self.meter.load(target, 1)
        session.here = session.home = target
        session.not_before_s = self.now_s + self.profile.move_s
        self._plan(session)

    def suspend(self, session: SimSession) -> None:
        self.meter.suspends += 1
        session.here = None

    def _let_go(self, session: SimSession, worker: SimWorker) -> None:
        self.meter.load(worker, -1)
        session.turn += 1
        if session in worker.ready:
            worker.ready.remove(session)

    # Chunks.

    def _plan(self, session: SimSession) -> None:
        """Its next chunk becomes ready once it is due and its worker has its state."""
        session.turn += 1
        if not session.making:
            self.at(max(session.due_s, session.not_before_s), self._ready, session, session.turn)

    def _ready(self, session: SimSession, turn: int) -> None:
        worker = session.here
        if turn != session.turn or worker is None:
            return
        worker.ready.append(session)
        if not worker.batch:
            self._make(worker)

    def _make(self, worker: SimWorker) -> None:
        batch = worker.batch = worker.pick()
        for session in batch:
            session.making = True
        self.at(self.now_s + worker.kind.batch_s[len(batch)], self._made, worker)

    def _made(self, worker: SimWorker) -> None:
        batch, worker.batch = worker.batch, []
        delivered_s = self.now_s + self.profile.deliver_s
        for session in batch:
            session.making = False
            if not session.gone:
                self._deliver(session, delivered_s)
        if worker.ready:
            self._make(worker)

    def _deliver(self, session: SimSession, at_s: float) -> None:
        meter, chunk_s = self.meter, self.profile.chunk_s
        meter.latencies_s.append(at_s - session.due_s)
        first = not session.chunks
        session.chunks += 1
        if not session.active:
            left_s = 0.0 if first else session.play_end_s
            session.before_end_s, session.play_end_s = left_s, left_s + chunk_s
            return
        if first:
            meter.ttfc_s.append(at_s - session.wanted_s)
            meter.unstarted_s += session.queued_s
            session.queued_s = 0.0
            session.active_from_s = at_s
            session.play_end_s = NEVER_S
        elif at_s > session.play_end_s:
            meter.stalled_s += at_s - session.play_end_s
        played_s = session.play_end_s
        session.before_end_s, session.play_end_s = played_s, max(played_s, at_s) + chunk_s
        session.due_s = max(at_s, played_s)
        if session.here is not None:
            self._plan(session)

    def finish(self) -> None:
        """The trace is over: what is still going on counts up to here."""
        for session in self.sessions.values():
            if session.active and not session.refused:
                self._count_spell(session)
