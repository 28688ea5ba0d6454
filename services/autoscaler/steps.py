"""From what a policy wants changed to what may be done now: nobody is let go before placement says that the
worker is empty and stays so, and a node only as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from services.autoscaler.outlook import Leaving
from services.autoscaler.policies.view import Change
from services.autoscaler.provider import Member
from shared.contracts.fleet import WorkerLoad


class Steps(msgspec.Struct, frozen=True):
    """`start`: how many nodes. `let_go`: empty workers, to be told that they may stop. `stop`: ones that were
    never ready. `kill`: ones that hang, by reason. `leaving`: who is drained from now on.
    """

    leaving: Leaving
    start: int = 0
    let_go: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    kill: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.start or self.let_go or self.stop or self.kill)


def drained(leaving: Leaving, change: Change, members: Sequence[Member], now: float) -> Leaving:
    """Whoever is to be drained or released is drained; those already draining go on unless taken back."""
    names = {member.worker for member in members}
    since = leaving.draining | {
        worker: leaving.draining.get(worker, now) for worker in (*change.drain, *change.release)
    }
    draining = {w: at for w, at in since.items() if w in names and w not in change.undrain}
    taken_back = {w: at for w, at in leaving.taken_back.items() if w in names}
    return msgspec.structs.replace(
        leaving,
        draining=draining,
        taken_back=taken_back | {w: now for w in change.undrain if w in leaving.draining},
    )


def can_go(
    released: Collection[str],
    leaving: Leaving,
    members: Sequence[Member],
    told: Mapping[str, WorkerLoad],
    ordered: Collection[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of `released` to be told so, and those to be stopped because they were never ready. `ordered`:
    workers that were ordered and have not been ready since.
    """
    nodes: dict[str, list[str]] = defaultdict(list)
    for member in members:
        if member.state == "alive":
            nodes[member.node or member.worker].append(member.worker)
    asked = leaving.draining.keys() & frozenset(released)
    going = [
        worker
        for node in nodes.values()
        if all(w in asked and (_boots(w, told, ordered) or _empty(told.get(w))) for w in node)
        for worker in node
    ]
    booting = tuple(worker for worker in going if _boots(worker, told, ordered))
    return tuple(worker for worker in going if worker not in booting), booting


def _boots(worker: str, told: Mapping[str, WorkerLoad], ordered: Collection[str]) -> bool:
    return told[worker].state == "starting" if worker in told else worker in ordered


def _empty(told: WorkerLoad | None) -> bool:
    return told is not None and told.state == "draining" and not told.copies and not told.active


def in_words(change: Change, kill: Mapping[str, str]) -> str:
    """What this would do, for people; "": nothing."""
    started = sum(change.start.values())
    parts = [f"start {started} worker{'s' if started > 1 else ''}"] if started else []
    for verb, workers in (
        ("take back", change.undrain),
        ("drain", change.drain),
        ("let go", change.release),
        ("end for hanging", tuple(kill)),
    ):
        if workers:
            parts.append(f"{verb} {', '.join(workers)}")
    return "; ".join(parts)
