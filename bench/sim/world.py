"""The events: chunks that become due and are made, users who come and go, workers that boot."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from bench.sim.audience import Audience
from bench.sim.parts import SimSession, SimWorker
from bench.sim.profiles import Profile
from bench.sim.sharing import Sharing, between

Handler = Callable[..., None]


class World(Audience):
    """What happens, in order. Whoever decides (`Control`) is told by whoever calls, not from here; but
    `shifted` has the sessions whose beat has changed, for it to read and clear. `booting`: workers, now.
    `seed`: of what chunks take, where the profile has a spread.
    """

    def __init__(self, profile: Profile, seed: int = 1) -> None:
        super().__init__()
        self.profile = profile
        self._events: list[tuple[float, int, Handler, tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.shifted: dict[str, SimSession] = {}
        self.booting = 0
        self._rng = Random(seed)
        self._sharing = Sharing(self, profile.beside_busy) if profile.beside_busy > 1.0 else None

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

    # Who has whom.

    def place(self, session: SimSession, worker: SimWorker) -> None:
        profile, here_before = self.profile, session.home is worker
        super().place(session, worker)
        if not session.chunks:
            delay_s = profile.start_s
        else:
            delay_s = profile.resume_s if here_before else profile.resume_elsewhere_s
        session.not_before_s = self.now_s + delay_s
        self._plan(session)

    def move(self, session: SimSession, target: SimWorker) -> None:
        super().move(session, target)
        session.not_before_s = self.now_s + self.profile.move_s
        self._plan(session)

    def _let_go(self, session: SimSession, worker: SimWorker) -> None:
        super()._let_go(session, worker)
        session.turn += 1
        if session in worker.ready:
            worker.ready.remove(session)

    def beat_s(self, session: SimSession) -> float | None:
        """As its viewer's play has it; of one that is placed and has nothing to play, as expected."""
        if not session.active:
            return None
        if session.chunks and session.play_end_s > self.now_s:
            return session.play_end_s
        if session.here is None:
            return None
        return max(session.not_before_s, session.due_s) + session.here.kind.latency_s[1]

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
        share = sum([session.weight for session in batch]) / len(batch)
        if self.booting:
            share *= self.profile.beside_boot
        if self.profile.spread:
            share *= between(self.profile.spread, self._rng.random())
        work_s = share * worker.kind.batch_s[len(batch)]
        if self._sharing is not None:
            self._sharing.begin(worker, work_s, self._made)
        else:
            self.at(self.now_s + work_s, self._made, worker)

    def _made(self, worker: SimWorker) -> None:
        batch, worker.batch = worker.batch, []
        delivered_s = self.now_s + self.profile.deliver_s
        for session in batch:
            session.making = False
            if session.gone:
                continue
            if delivered_s > session.play_end_s:
                self.shifted[session.name] = session
            self.deliver(session, delivered_s, self._plays_s(session))
            if session.active and session.here is not None:
                self._plan(session)
        if worker.ready:
            self._make(worker)

    def _plays_s(self, session: SimSession) -> float:
        first_s = self.profile.first_chunk_s
        return self.profile.chunk_s if session.chunks or first_s is None else first_s
