"""What the simulated viewers of a live system see, counted by the simulator's own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.sim.audience import Audience
from bench.sim.parts import KindOfWorker, SimSession, SimWorker
from bench.sim.profiles import Gpu
from services.worker.curve import HEADROOM

_OPENING = 2
"""Chunks of a new session that are granted at once."""

_MOST_SESSIONS = 1024
"""On one worker, in the list of its latencies, which goes on with the last one told."""


class Shown(NamedTuple):
    """A chunk that reached a viewer: due and there in seconds of the replay. `worker` "": unknown. `usual`:
    neither one of its session's first two, nor the first after a pause that left its viewer with nothing.
    `plays_s`: how long.
    """

    session: str
    worker: str
    due_s: float
    at_s: float
    plays_s: float
    usual: bool

    @property
    def latency_s(self) -> float:
        return self.at_s - self.due_s


class ToldKind(KindOfWorker):
    """A worker's latencies and capacity as it tells them itself. `latency_s` empty: it hasn't yet."""

    def __init__(self, latency_s: Sequence[float], capacity: int) -> None:
        super().__init__(Gpu("told", ((1, max(latency_s, default=0.0)),), slots=1), math.inf)
        told = tuple(latency_s) or (0.0,)
        self.latency_s = told + told[-1:] * (_MOST_SESSIONS - len(told))
        self.capacity = capacity
        self.told = (tuple(latency_s), capacity)


class House(Audience):
    """`clock`: seconds since the replay began. `target_s` None: a worker's capacity is what it says itself.

    Every call happens now. `shown`: every chunk, in order.
    """

    def __init__(self, clock: Callable[[], float], target_s: float | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._target_s = target_s
        self._waiting: dict[str, float] = {}
        self.workers: dict[str, SimWorker] = {}
        self.shown: list[Shown] = []

    def now(self) -> float:
        """Brings everything that is integrated over time up to now."""
        self.now_s = self._clock()
        self.meter.oldest_wait_from_s = min(self._waiting.values(), default=math.inf)
        self.meter.advance(self.now_s)
        return self.now_s

    # What users do.

    def activate(self, session: SimSession) -> None:
        self.now()
        super().activate(session)
        if not session.refused:
            self._waiting[session.name] = self.now_s

    def pause(self, session: SimSession) -> None:
        self.now()
        super().pause(session)
        self._waiting.pop(session.name, None)

    def give_up(self, session: SimSession, *, refused: bool) -> None:
        """It is served no more, or never was: all that its user would still have watched counts as refused.
        `refused`: by the system's own word.
        """
        if session.gone or session.refused:
            return
        self.now()
        self.meter.refusals += refused
        session.refused = True
        if session.active:
            self._stop_serving(session)

    def _stop_serving(self, session: SimSession) -> None:
        self._count_spell(session)
        if session.here is None:
            self.meter.queued -= 1
        else:
            self._let_go(session, session.here)
        session.here = None
        self.meter.active -= 1
        self.meter.refused += 1
        self._waiting.pop(session.name, None)

    def deliver(self, session: SimSession, at_s: float, chunk_s: float) -> None:
        worker = session.here.name if session.here else ""
        usual = session.chunks >= _OPENING and session.due_s > session.active_from_s
        self.shown.append(Shown(session.name, worker, session.due_s, at_s, chunk_s, usual))
        super().deliver(session, at_s, chunk_s)

    # Who has whom, as the system says.

    def owned_by(self, session: SimSession, worker: str) -> None:
        """The system says that `worker` has it, "" that none has."""
        if not session.active or session.refused:
            return
        if not worker:
            if session.here is not None:
                self.lose(session)
            return
        self.now()
        owner = self.worker(worker)
        if session.here is None:
            self._waiting.pop(session.name, None)
            self.place(session, owner)
        elif session.here is not owner:
            self.move(session, owner)

    def lose(self, session: SimSession) -> None:
        """It is without a worker again, and waits."""
        here = session.here
        assert here is not None
        self.now()
        self._let_go(session, here)
        session.here = None
        self.meter.queued += 1
        self._waiting[session.name] = self.now_s
        if not session.chunks:
            session.active_from_s = self.now_s

    # Workers.

    def worker(self, name: str) -> SimWorker:
        """One that nothing is known of yet has the newest known one's latencies."""
        if name not in self.workers:
            newest = next(reversed(self.workers.values()), None)
            kind = newest.kind if newest else ToldKind((), 1)
            self.workers[name] = SimWorker(name, "", kind, self.now_s)
        return self.workers[name]

    def told(self, name: str, latency_s: Sequence[float], capacity: int) -> None:
        """A worker's own word on itself, which may change."""
        worker, capacity = self.worker(name), self._capacity(latency_s, capacity)
        if isinstance(worker.kind, ToldKind) and worker.kind.told == (tuple(latency_s), capacity):
            return
        self.now()
        active = worker.active
        self.meter.load(worker, -active)
        worker.kind = ToldKind(latency_s, capacity)
        self.meter.load(worker, active)

    def kinds_told(self) -> list[ToldKind]:
        """Of the workers that have told their latencies, the newest last."""
        kinds = (worker.kind for worker in self.workers.values())
        return [kind for kind in kinds if isinstance(kind, ToldKind) and kind.told[0]]

    def _capacity(self, latency_s: Sequence[float], capacity: int) -> int:
        if self._target_s is None or not latency_s:
            return capacity
        limit_s = HEADROOM * self._target_s
        within = next((n for n, one_s in enumerate(latency_s) if one_s > limit_s), len(latency_s)) - 1
        return max(1, min(capacity, within))
