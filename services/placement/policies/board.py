"""A view laid out by worker, on which a policy tries its acts. Made for one decision, then thrown away.

What can't be true is read as harmlessly as possible, since a policy must never end its service: of two
workers or sessions with one name the first counts, a session on an unknown worker has none.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

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

_ROUNDING = 1e-9
"""Of sums of weights."""
_MOST_UNTOLD = 1000
"""Slots beyond those that a latency is told for."""
_MOST = 1e6
"""Seconds, or weight, or slots: more is no number that anybody measured."""


class Board:
    """`here`: active sessions by worker, `loads`: what they weigh, `beats`: those that are known of them.
    `waiting`: active ones without a worker, in the order in which they became so.
    """

    def __init__(self, view: View) -> None:
        if not (0.0 < view.chunk_s < _MOST and 0.0 < view.spell_s < _MOST):
            view = msgspec.structs.replace(view, chunk_s=1.0, spell_s=15.0)
        self.view = view
        self.workers: dict[str, Worker] = {}
        for worker in view.workers:
            if worker.worker not in self.workers:
                possible = 0 <= worker.capacity <= worker.slots < len(worker.latency_s)
                self.workers[worker.worker] = worker if possible else _possible(worker)
        self.ready = [worker for worker in self.workers.values() if worker.state == "ready"]
        self.here: dict[str, list[Session]] = {name: [] for name in self.workers}
        self.loads: dict[str, float] = dict.fromkeys(self.workers, 0.0)
        self.beats: dict[str, list[float]] = {name: [] for name in self.workers}
        self.waiting: list[Session] = []
        self.acts: list[Act] = []
        self._lay(view.sessions)
        self.waiting.sort(key=lambda session: (session.since_s, session.session))

    def _lay(self, sessions: Iterable[Session]) -> None:
        here, loads, beats = self.here, self.loads, self.beats
        known: set[str] = set()
        for session in sessions:
            if session.session in known:
                continue
            known.add(session.session)
            if not (session.weight > 0.0 < session.floor_weight < _MOST > session.weight):
                session = msgspec.structs.replace(session, weight=1.0, floor_weight=1.0, full_weight=1.0)
            worker = session.worker
            if not session.active:
                if worker in here:
                    self.acts.append(Suspend(session.session, worker, "its user paused"))
            elif worker in here:
                here[worker].append(session)
                loads[worker] += session.weight
                if session.beat_s is not None:
                    beats[worker].append(session.beat_s)
            else:
                self.waiting.append(session)

    def _add(self, session: Session, worker: str) -> None:
        self.here[worker].append(session)
        self.loads[worker] += session.weight
        if session.beat_s is not None:
            self.beats[worker].append(session.beat_s)

    def _remove(self, session: Session, worker: str) -> None:
        self.here[worker].remove(session)
        self.loads[worker] -= session.weight
        if session.beat_s is not None:
            self.beats[worker].remove(session.beat_s)

    def ratio(self, worker: Worker) -> float:
        return self.loads[worker.worker] / worker.capacity if worker.capacity else float("inf")

    def latency_s(self, worker: Worker, more: float = 0.0) -> float:
        """With `more` load than now. What doesn't fit takes for ever."""
        load = self.loads[worker.worker] + more
        if load > worker.slots:
            return float("inf")
        whole = int(load)
        below_s = worker.latency_s[whole]
        part = load - whole
        if part <= _ROUNDING:
            return below_s
        return below_s + part * (worker.latency_s[min(whole + 1, worker.slots)] - below_s)

    def free(self, session: Session, *, beyond: bool = False) -> list[Worker]:
        """Ready workers with room for it: within capacity, or `beyond` it up to their slots. Those to be
        avoided only if there is no other.
        """
        here, group, loads = self.here, session.group, self.loads
        weight = session.weight - _ROUNDING
        free = [
            w
            for w in self.ready
            if len(here[w.worker]) < w.slots
            and w.group == group
            and (beyond or loads[w.worker] + weight <= w.capacity)
        ]
        if not session.avoid:
            return free
        return [w for w in free if w.worker not in session.avoid] or free

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
        rho_max = max((self.ratio(worker) for worker in self.ready if worker.capacity), default=0.0)
        freed_per_s = self.view.freed_per_s
        waiting = tuple(
            Waiting(session.session, position, (position + 1) / freed_per_s if freed_per_s > 0 else None)
            for position, session in enumerate(still_waiting)
        )
        return Decision(tuple(self.acts), waiting, rho_max, memory)


def _possible(worker: Worker) -> Worker:
    """With a latency for each of its slots, and no more capacity than slots."""
    slots = max(0, min(worker.slots, len(worker.latency_s) + _MOST_UNTOLD))
    capacity, latency_s = worker.capacity, worker.latency_s
    last_s = latency_s[-1] if latency_s else 0.0
    return msgspec.structs.replace(
        worker,
        slots=slots,
        capacity=min(max(0, capacity), slots),
        latency_s=latency_s + (last_s,) * (slots + 1 - len(latency_s)),
    )
