"""What users do and see: who wants pictures, who has whom, what is played and what stands still.

The same arithmetic for the simulator's world and for a replay's simulated viewers of a live system.
"""

from __future__ import annotations

import itertools

from bench.sim.meter import Meter
from bench.sim.parts import NEVER_S, SimSession, SimWorker


class Audience:
    """Told what happens, in order, with `now_s` set to when. Whoever decides is told by whoever calls."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.now_s = 0.0
        self.sessions: dict[str, SimSession] = {}
        self._numbers = itertools.count()

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
        self.meter.stepped += session.weight < 1.0
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
        self.meter.stepped -= session.weight < 1.0
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
        self.meter.advance(self.now_s)
        self.meter.queued -= 1
        self.meter.load(worker, 1, session.weight)
        if not session.chunks:
            session.queued_s += self.now_s - session.active_from_s
        session.here = session.home = worker

    def move(self, session: SimSession, target: SimWorker) -> None:
        source = session.here
        assert source is not None
        self.meter.advance(self.now_s)
        self.meter.moves += 1
        self._let_go(session, source)
        self.meter.load(target, 1, session.weight)
        session.here = session.home = target

    def step(self, session: SimSession, weight: float) -> None:
        """It takes so much of a worker from now on."""
        self.meter.advance(self.now_s)
        self.meter.stepped += (weight < 1.0) - (session.weight < 1.0)
        if session.here is not None:
            self.meter.load(session.here, 0, weight - session.weight)
        session.weight = weight

    def suspend(self, session: SimSession) -> None:
        self.meter.suspends += 1
        session.here = None

    def _let_go(self, session: SimSession, worker: SimWorker) -> None:
        self.meter.load(worker, -1, -session.weight)

    # Chunks.

    def deliver(self, session: SimSession, at_s: float, chunk_s: float) -> None:
        """A chunk that plays for `chunk_s` reaches the viewer."""
        meter = self.meter
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

    def finish(self) -> None:
        """The trace is over: what is still going on counts up to here."""
        for session in self.sessions.values():
            if session.active and not session.refused:
                self._count_spell(session)
