"""What reports have taught the autoscaler so far: how long workers boot, what they carry, what users did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from statistics import median

import msgspec

from services.autoscaler.policies.view import Counts
from services.autoscaler.provider import Member
from shared.contracts.fleet import FleetLoad, WorkerLoad

BOOTS_KEPT = 9
_FORMER_KEPT = 4


class Carries(msgspec.Struct, frozen=True):
    """What a worker of some kind carries. `latency_s[n]`: of a chunk with n sessions; empty: not measured."""

    capacity: int
    latency_s: tuple[float, ...] = ()


class Knowledge(msgspec.Struct, frozen=True):
    """`placement`, `told`: who spoke last, and the counts it gave; `past`: of those before it, the `former`,
    who may still be heard for a moment and are no longer to be listened to.
    `heard`: when each member was last among those placement hears. `ordered`: when those were ordered that
    have never been ready. `boots_s`: from the order to readiness, the newest last; `ready_at`: of the newest.
    `kinds`: by kind of device. `kind`, `model`: of the provider's workers; "": none of them was ever ready.
    """

    placement: str = ""
    told: Counts = Counts()
    past: Counts = Counts()
    former: tuple[str, ...] = ()
    heard: dict[str, float] = {}
    ordered: dict[str, float] = {}
    boots_s: tuple[float, ...] = ()
    ready_at: float = 0.0
    kinds: dict[str, Carries] = {}
    kind: str = ""
    model: str = ""

    @property
    def counts(self) -> Counts:
        return _sum(self.past, self.told)

    def order(self, workers: Collection[str], at: float) -> Knowledge:
        return msgspec.structs.replace(self, ordered=self.ordered | dict.fromkeys(workers, at))

    def boot_s(self, prior_s: float) -> float:
        return median(self.boots_s) if self.boots_s else prior_s


def in_silence(before: Knowledge, now: float) -> Knowledge:
    """Nobody can be blamed for silence while placement itself is silent."""
    return msgspec.structs.replace(before, heard=dict.fromkeys(before.heard, now))


def learn(before: Knowledge, members: Sequence[Member], load: FleetLoad, now: float) -> Knowledge:
    names = {member.worker for member in members}
    ours = [worker for worker in load.workers if worker.worker in names]
    ready = [worker for worker in ours if worker.state == "ready"]
    waiting = {worker: at for worker, at in before.ordered.items() if worker in names}
    booted = [now - waiting.pop(worker.worker) for worker in ready if worker.worker in waiting]
    heard = {worker: at for worker, at in before.heard.items() if worker in names}
    learned = msgspec.structs.replace(
        before,
        heard=heard | {worker.worker: now for worker in ours if worker.state != "starting"},
        ordered=waiting,
        boots_s=(*before.boots_s, *booted)[-BOOTS_KEPT:],
        ready_at=now if booted else before.ready_at,
        kinds=before.kinds | _carried(load.workers),
        kind=_commonest([worker.kind for worker in ready], before.kind),
        model=_commonest([worker.model for worker in ready], before.model),
    )
    return _counted(learned, load)


def _carried(workers: Sequence[WorkerLoad]) -> dict[str, Carries]:
    """By kind: the mean capacity, and the curve that reaches farthest."""
    ready = [worker for worker in workers if worker.state == "ready" and worker.capacity > 0]
    carried = {}
    for kind in {worker.kind for worker in ready}:
        same = [worker for worker in ready if worker.kind == kind]
        curve = max((worker.latency_s for worker in same), key=len)
        carried[kind] = Carries(sum(worker.capacity for worker in same) // len(same), tuple(curve))
    return carried


def _commonest(names: Sequence[str], otherwise: str) -> str:
    return Counter(names).most_common(1)[0][0] if names else otherwise


def _counted(before: Knowledge, load: FleetLoad) -> Knowledge:
    """Every placement counts from 0; a policy wants to see counts that only grow."""
    told = msgspec.convert(msgspec.structs.asdict(load.counts), Counts)
    begun_anew = load.placement != before.placement or any(
        new < old
        for new, old in zip(msgspec.structs.astuple(told), msgspec.structs.astuple(before.told), strict=True)
    )
    past = before.counts if begun_anew else before.past
    former = before.former
    if load.placement != before.placement:
        former = (*former, before.placement)[-_FORMER_KEPT:]
    return msgspec.structs.replace(before, placement=load.placement, told=told, past=past, former=former)


def _sum(one: Counts, other: Counts) -> Counts:
    values = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return Counts(*(a + b for a, b in values))
