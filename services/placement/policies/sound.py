"""A view without what can't be true, read as harmlessly as possible: a policy must never end its service.

Whoever makes views makes sound ones, so this only looks, and that quickly; it is for the day when a report is
broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec

from services.placement.policies.view import Session, View, Worker

_MOST_UNTOLD = 1000
"""Slots beyond those that a latency is told for."""
_MOST = 1e6
"""Seconds, or weight, or slots: more is no number that anybody measured."""
_WEIGHTS = attrgetter("weight", "floor_weight")


def with_times(view: View) -> View:
    if 0.0 < view.chunk_s < _MOST and 0.0 < view.spell_s < _MOST:
        return view
    return msgspec.structs.replace(view, chunk_s=1.0, spell_s=15.0)


def each_once(told: Sequence[Session]) -> Sequence[Session]:
    """Of two with one name the first counts."""
    unlike = len({session.session for session in told}) == len(told)
    if unlike and all(_weighs(*weights) for weights in set(map(_WEIGHTS, told))):
        return told
    sessions: dict[str, Session] = {}
    for session in told:
        if session.session not in sessions:
            possible = _weighs(session.weight, session.floor_weight)
            sessions[session.session] = session if possible else _of_full_weight(session)
    return list(sessions.values())


def _weighs(weight: float, floor_weight: float) -> bool:
    return weight > 0.0 < floor_weight < _MOST > weight


def _of_full_weight(session: Session) -> Session:
    return msgspec.structs.replace(session, weight=1.0, floor_weight=1.0, full_weight=1.0)


def workers_by_name(told: Sequence[Worker]) -> dict[str, Worker]:
    """Of two with one name the first counts."""
    workers = {worker.worker: worker for worker in told}
    broken = [w for w in told if not 0 <= w.capacity <= w.slots < len(w.latency_s)]
    if len(workers) < len(told):
        workers |= {worker.worker: worker for worker in reversed(told)}
    for worker in broken:
        if workers[worker.worker] is worker:
            workers[worker.worker] = _possible(worker)
    return workers


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
