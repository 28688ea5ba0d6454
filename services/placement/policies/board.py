"""A view laid out by worker, on which a policy tries its acts. Made for one decision, then thrown away."""

from __future__ import annotations

from collections.abc import Iterable

from services.placement.policies.view import (
    Act,
    Decision,
    Memory,
    Move,
    Place,
    Session,
    Suspend,
    View,
    Waiting,
    Worker,
)


class Board:
    """`here`: active sessions by worker. `waiting`: active ones without a worker, in the order in which they
    became so.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.workers = {worker.worker: worker for worker in view.workers}
        self.ready = [worker for worker in view.workers if worker.state == "ready"]
        self.here: dict[str, list[Session]] = {worker.worker: [] for worker in view.workers}
        self.waiting: list[Session] = []
        self.acts: list[Act] = []
        for session in view.sessions:
            self._lay(session)
        self.waiting.sort(key=lambda session: (session.since_s, session.session))

    def _lay(self, session: Session) -> None:
        here = self.here.get(session.worker)
        if not session.active:
            if session.worker:
                self.acts.append(Suspend(session.session, session.worker, "its user paused"))
        elif here is None:
            self.waiting.append(session)
        else:
            here.append(session)

    def load(self, worker: Worker) -> int:
        return len(self.here[worker.worker])

    def ratio(self, worker: Worker) -> float:
        return len(self.here[worker.worker]) / worker.capacity if worker.capacity else float("inf")

    def latency_s(self, worker: Worker, more: int = 0) -> float:
        """With `more` active sessions than now. What doesn't fit takes for ever."""
        sessions = len(self.here[worker.worker]) + more
        return worker.latency_s[sessions] if sessions <= worker.slots else float("inf")

    def free(self, session: Session, *, beyond: bool = False) -> list[Worker]:
        """Ready workers with room for it: within capacity, or `beyond` it up to their slots. Those to be
        avoided only if there is no other.
        """
        here, group = self.here, session.group
        if beyond:
            free = [w for w in self.ready if len(here[w.worker]) < w.slots and w.group == group]
        else:
            free = [w for w in self.ready if len(here[w.worker]) < w.capacity and w.group == group]
        if not session.avoid:
            return free
        return [w for w in free if w.worker not in session.avoid] or free

    def place(self, session: Session, worker: Worker, reason: str) -> None:
        self.here[worker.worker].append(session)
        self.acts.append(Place(session.session, worker.worker, reason))

    def move(self, session: Session, source: Worker, target: Worker, reason: str) -> None:
        self.here[source.worker].remove(session)
        self.here[target.worker].append(session)
        self.acts.append(Move(session.session, source.worker, target.worker, reason))

    def decision(self, memory: Memory, still_waiting: Iterable[Session]) -> Decision:
        rho_max = max((self.ratio(worker) for worker in self.ready if worker.capacity), default=0.0)
        freed_per_s = self.view.freed_per_s
        waiting = tuple(
            Waiting(session.session, position, (position + 1) / freed_per_s if freed_per_s > 0 else None)
            for position, session in enumerate(still_waiting)
        )
        return Decision(tuple(self.acts), waiting, rho_max, memory)
