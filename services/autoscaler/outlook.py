"""What a policy of the fleet's size is shown: the provider's members and placement's newest load, put
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from services.autoscaler.controls import Controls
from services.autoscaler.knowledge import Carries, Knowledge
from services.autoscaler.policies.view import Kind, View, Worker
from services.autoscaler.provider import Member
from shared.contracts.fleet import FleetLoad, WorkerLoad

ANY_CAPACITY = 1000
"""Of a worker while none has told: one worker must do until then."""

_UNDRAIN_S = 3.0
"""So long placement may go on calling a worker draining that no longer should be."""
_UNKNOWN_KIND = "worker"


class Leaving(msgspec.Struct, frozen=True):
    """Whom the autoscaler itself drains, and since when; and whom it has taken back, and when. `ended`: when
    workers have ended: a report may still tell of them. `begun_at`: since when it leads; what its predecessor
    drained is still called so for a moment.
    """

    begun_at: float
    draining: dict[str, float] = {}
    taken_back: dict[str, float] = {}
    ended: dict[str, float] = {}


class Terms(msgspec.Struct, frozen=True):
    """`node_size`: workers that are had and given back together. `boot_s`: to expect until boots were
    measured. `model`: of the provider's workers, until they report it; "": not known.
    """

    node_size: int = 1
    boot_s: float = 15.0
    model: str = ""


class Outlook(msgspec.Struct, frozen=True):
    """`kept`: how many of the view's workers were started by hand."""

    view: View
    kept: int


def outlook(
    members: tuple[Member, ...],
    load: FleetLoad,
    knowledge: Knowledge,
    leaving: Leaving,
    terms: Terms,
    controls: Controls,
    now: float,
) -> Outlook:
    """Workers that go come what may are not in it: those told to stop, and those an operator drains."""
    model = knowledge.model or terms.model
    told = {w.worker: w for w in load.workers}
    ours = [m for m in members if not goes(m, told.get(m.worker), leaving, now)]
    names = {member.worker for member in members} | leaving.ended.keys()
    strangers = [w for w in load.workers if w.worker not in names]
    kept = [w for w in strangers if w.state == "ready" and _serves(w, model)]
    boot_s = knowledge.boot_s(terms.boot_s)
    workers = [_seen(m, told.get(m.worker), knowledge.kind, leaving, boot_s) for m in ours]
    workers += [_hand_started(w, load.sent_at, now) for w in kept]
    elsewhere = sum(w.active for w in strangers if not _serves(w, model))
    view = View(
        now_s=now,
        workers=tuple(workers),
        loads=tuple(told[w.worker].active if w.worker in told else 0 for w in workers),
        kinds=tuple(_kinds(workers, knowledge, boot_s)),
        active=max(0, load.active - elsewhere) + load.queued,
        queued=load.queued,
        idle=load.paused,
        counts=knowledge.counts,
        rho_max=load.rho_max,
        minimum=controls.minimum + len(kept),
        maximum=controls.maximum + len(kept),
        node_size=terms.node_size,
        spare=controls.spare,
    )
    return Outlook(view, len(kept))


def goes(member: Member, told: WorkerLoad | None, leaving: Leaving, now: float) -> bool:
    """Whether it goes though no policy asked for it."""
    if member.state == "stopping":
        return True
    if told is None or told.state != "draining" or member.worker in leaving.draining:
        return False
    return now - leaving.taken_back.get(member.worker, leaving.begun_at) > _UNDRAIN_S


def _serves(worker: WorkerLoad, model: str) -> bool:
    return model in ("", worker.model)


def _seen(member: Member, told: WorkerLoad | None, kind: str, leaving: Leaving, boot_s: float) -> Worker:
    name = member.worker
    if name in leaving.draining:
        return Worker(name, _kind(told, kind), "draining", leaving.draining[name], member.node)
    if told is None or told.state == "starting":
        ready_at_s = member.started_at + boot_s
        return Worker(name, _kind(told, kind), "booting", member.started_at, member.node, ready_at_s)
    return Worker(name, _kind(told, kind), "ready", member.started_at, member.node)


def _hand_started(told: WorkerLoad, sent_at: float, now: float) -> Worker:
    since_s = now - max(0.0, sent_at - told.started_at)
    return Worker(told.worker, _kind(told, ""), "ready", since_s, kept=True)


def _kind(told: WorkerLoad | None, otherwise: str) -> str:
    return (told.kind if told is not None else "") or otherwise or _UNKNOWN_KIND


def _kinds(workers: list[Worker], knowledge: Knowledge, boot_s: float) -> Iterator[Kind]:
    """First the one that can be had, then those there are besides."""
    first = knowledge.kind or _UNKNOWN_KIND
    others = sorted({worker.kind for worker in workers} - {first})
    for kind in (first, *others):
        carries = _carries(kind, knowledge.kinds)
        yield Kind(kind, carries.capacity, carries.latency_s or (0.0,), boot_s=boot_s)


def _carries(kind: str, kinds: Mapping[str, Carries]) -> Carries:
    known = kinds.get(kind) or (kinds.get("") if kind == _UNKNOWN_KIND else None)
    return known or next(iter(kinds.values()), Carries(ANY_CAPACITY))
