"""A view laid out by worker, on which a policy tries its acts. Made for one decision, then thrown away.

A session on an unknown worker has none; what else can't be true, see `sound`.

A decision about a thousand workers makes few objects that Python's garbage collector counts, such as lists:
thousands of them at every decision would have it look through the whole process again and again, which takes
longer than the slowest decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

import msgspec

from services.placement.policies.sound import each_once, with_times, workers_by_name
from services.placement.policies.vacancies import Vacancies, Wanted, latencies_s, latency_s
from services.placement.policies.view import (
    Act,
    Decision,
    Memory,
    Move,
    Place,
    Session,
    StepDown,
    StepUp,
    Suspend,
    View,
    Waiting,
    Worker,
)

_WORKER = attrgetter("worker")


class Board:
    """`placed`: the active sessions that had a worker when the decision began. `loads`: what those weigh that
    a worker has now, `counts`: how many they are. `waiting`: active ones without a worker, in the order in
    which they became so.
    """

    def __init__(self, view: View) -> None:
        self.view = with_times(view)
        workers = self.workers = workers_by_name(view.workers)
        self.ready = [worker for worker in workers.values() if worker.state == "ready"]
        sessions = each_once(view.sessions)
        self.placed = [s for s in sessions if s.worker in workers and s.active]
        others = [s for s in sessions if s.worker not in workers or not s.active]
        self.waiting = [s for s in others if s.active]
        self.waiting.sort(key=lambda session: (session.since_s, session.session))
        self.acts: list[Act] = [
            Suspend(s.session, s.worker, "its user paused")
            for s in others
            if s.worker in workers and not s.active
        ]
        self.counts = dict.fromkeys(workers, 0)
        self.loads = dict.fromkeys(workers, 0.0)
        self._last = dict.fromkeys(workers, -1)
        self._previous: list[int] = []
        self._lay()
        self._changed: dict[str, list[Session]] = {}
        self._now_s: list[float] = []
        self._index: dict[str, int] = {}
        self._vacancies: dict[Wanted, Vacancies] = {}

    def _lay(self) -> None:
        counts, last, previous = self.counts, self._last, self._previous
        for n, session in enumerate(self.placed):
            worker = session.worker
            previous.append(last[worker])
            last[worker] = n
        counts.update(Counter(map(_WORKER, self.placed)))
        if {session.weight for session in self.placed} <= {1.0}:
            self.loads.update(counts)
            return
        for session in self.placed:
            self.loads[session.worker] += session.weight

    def here(self, worker: str) -> Sequence[Session]:
        """The active sessions that a worker has now, none if it is unknown."""
        changed = self._changed.get(worker)
        if changed is not None:
            return changed
        found: list[Session] = []
        n = self._last.get(worker, -1)
        while n >= 0:
            found.append(self.placed[n])
            n = self._previous[n]
        return found[::-1]

    def beats(self, worker: str) -> list[float]:
        """Those that are known of its sessions."""
        return [session.beat_s for session in self.here(worker) if session.beat_s is not None]

    def changed(self) -> Iterable[str]:
        """Workers that have other sessions than when the decision began."""
        return self._changed

    def _add(self, session: Session, worker: str) -> None:
        self._own(worker).append(session)
        self.loads[worker] += session.weight
        self._note(worker, 1)

    def _remove(self, session: Session, worker: str) -> None:
        self._own(worker).remove(session)
        self.loads[worker] -= session.weight
        self._note(worker, -1)

    def _own(self, worker: str) -> list[Session]:
        if worker not in self._changed:
            self._changed[worker] = list(self.here(worker))
        return self._changed[worker]

    def _note(self, worker: str, more: int) -> None:
        self.counts[worker] += more
        index = self.index(worker)
        if index is None:
            return
        if self._now_s:
            self._now_s[index] = self.latency_s(self.ready[index])
        for vacancies in self._vacancies.values():
            vacancies.look_at(index, self.ready[index])

    def index(self, worker: str) -> int | None:
        """Among the ready ones; None: it isn't one."""
        if not self._index:
            self._index = {worker.worker: index for index, worker in enumerate(self.ready)}
        return self._index.get(worker)

    def ratio(self, worker: Worker) -> float:
        return self.loads[worker.worker] / worker.capacity if worker.capacity else float("inf")

    def latency_s(self, worker: Worker, more: float = 0.0) -> float:
        """With `more` load than now. What doesn't fit takes for ever."""
        return latency_s(worker, self.loads[worker.worker] + more)

    def now_s(self) -> Sequence[float]:
        """The latency of each ready worker."""
        if not self._now_s:
            self._now_s = latencies_s(self.ready, self.loads, 0.0)
        return self._now_s

    def vacancies(self, session: Session, *, beyond: bool = False) -> Vacancies:
        """Ready workers with room for it: within capacity, or `beyond` it up to their slots. Those to be
        avoided only if there is no other.
        """
        wanted = Wanted(session.group, session.weight, beyond)
        known = self._vacancies.get(wanted)
        if known is None:
            known = Vacancies(wanted, self.ready, self.loads, self.counts)
            self._vacancies[wanted] = known
        return known.without(session.avoid) if session.avoid else known

    def free(self, session: Session, *, beyond: bool = False) -> Sequence[Worker]:
        return self.vacancies(session, beyond=beyond).workers

    def place(self, session: Session, worker: Worker, reason: str) -> None:
        self._add(session, worker.worker)
        self.acts.append(Place(session.session, worker.worker, reason))

    def move(self, session: Session, source: Worker, target: Worker, reason: str) -> None:
        self._remove(session, source.worker)
        self._add(session, target.worker)
        self.acts.append(Move(session.session, source.worker, target.worker, reason))

    def step_down(self, session: Session, worker: Worker | None, reason: str) -> Session:
        """Returns it as it is then. `worker`: who has it, None: it waits."""
        self.acts.append(StepDown(session.session, reason))
        floor = session.floor_weight
        return self._weigh(msgspec.structs.replace(session, weight=floor), session, worker)

    def step_up(self, session: Session, worker: Worker, reason: str) -> Session:
        self.acts.append(StepUp(session.session, reason))
        full = session.full_weight
        return self._weigh(msgspec.structs.replace(session, weight=full, floor_weight=full), session, worker)

    def _weigh(self, after: Session, before: Session, worker: Worker | None) -> Session:
        if worker is not None:
            self._remove(before, worker.worker)
            self._add(after, worker.worker)
        return after

    def decision(self, memory: Memory, still_waiting: Iterable[Session]) -> Decision:
        loads = self.loads
        rho_max = max([loads[w.worker] / w.capacity for w in self.ready if w.capacity], default=0.0)
        freed_per_s = self.view.freed_per_s
        waiting = tuple(
            Waiting(session.session, position, (position + 1) / freed_per_s if freed_per_s > 0 else None)
            for position, session in enumerate(still_waiting)
        )
        return Decision(tuple(self.acts), waiting, rho_max, memory)
