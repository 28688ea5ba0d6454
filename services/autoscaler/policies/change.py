"""From a number of workers to what is to be done: un-drain before buying, give back what boots before what
serves, drain what is nearly empty, release what is empty, and all that by whole nodes where only those are
sold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from services.autoscaler.policies.view import Change, View, Worker

Loaded = tuple[Worker, int]


def clamp(desired: int, view: View) -> int:
    """Within the operator's limits, and whole nodes: up to the next, unless that is more than may be had."""
    if view.frozen:
        return sum(worker.state != "draining" for worker in view.workers)
    limited = max(view.minimum, min(desired, view.maximum))
    nodes = min(math.ceil(limited / view.node_size), view.maximum // view.node_size)
    return nodes * view.node_size


def to_count(desired: int, view: View, *, undrain: bool = True) -> Change:
    """`desired` is within the limits already. `undrain` False: what drains is let go, come what may."""
    return _to(desired, view, defaultdict(lambda: 1), undrain)


def to_capacity(desired: int, view: View, *, undrain: bool = True) -> Change:
    """As much capacity as `desired` workers of the cheapest kind have, on whatever kinds there are; dear
    ones go first. One of a kind that can't be had any more counts like the cheapest.
    """
    cheapest = view.kinds[0].capacity
    weight = defaultdict(lambda: cheapest, {kind.kind: kind.capacity for kind in view.kinds})
    return _to(desired * cheapest, view, weight, undrain)


def _to(wanted: int, view: View, weight: Mapping[str, int], undrain: bool) -> Change:
    """`weight`: what a worker of each kind counts towards `wanted`."""
    if wanted == sum([weight[w.kind] if w.state != "draining" else math.nan for w in view.workers]):
        return Change()
    units = _units(view)
    staying = [unit for unit in units if not _draining(unit)]
    draining = [unit for unit in units if _draining(unit)]
    have = sum(_weight(unit, weight) for unit in staying)
    kept: list[list[Loaded]] = []
    for unit in sorted(draining, key=_fullest_first) if undrain else ():
        if have < wanted:
            kept.append(unit)
            have += _weight(unit, weight)
    missing = math.ceil((wanted - have) / (weight[view.kinds[0].kind] * view.node_size))
    missing = min(missing, (view.maximum - len(view.workers)) // view.node_size)
    leaving = _surplus(staying, have - wanted, view, weight)
    gone = [unit for unit in (*draining, *leaving) if unit not in kept and not _load(unit)]
    return Change(
        start={view.kinds[0].kind: missing * view.node_size} if missing > 0 else {},
        undrain=_names(kept),
        drain=_names([unit for unit in leaving if _load(unit)]),
        release=_names(gone),
    )


def _surplus(
    staying: list[list[Loaded]], surplus: int, view: View, weight: Mapping[str, int]
) -> list[list[Loaded]]:
    """Units that can go: together they count no more than `surplus`."""
    if surplus <= 0:
        return []
    dear = {kind.kind: kind.price_per_s / kind.capacity for kind in view.kinds}
    leaving: list[list[Loaded]] = []
    ours = [unit for unit in staying if not any(worker.kept for worker, _ in unit)]
    for unit in sorted(ours, key=lambda unit: _cheapest_to_lose(unit, dear)):
        if (counts := _weight(unit, weight)) <= surplus:
            leaving.append(unit)
            surplus -= counts
    return leaving


def _units(view: View) -> list[list[Loaded]]:
    """What is bought and given back together."""
    by_node: dict[str, list[Loaded]] = defaultdict(list)
    for worker, load in zip(view.workers, view.loads, strict=True):
        by_node[worker.node or worker.worker].append((worker, load))
    return list(by_node.values())


def _draining(unit: Sequence[Loaded]) -> bool:
    return unit[0][0].state == "draining"


def _load(unit: Sequence[Loaded]) -> int:
    return sum(load for _, load in unit)


def _fullest_first(unit: Sequence[Loaded]) -> tuple[int, str]:
    return -_load(unit), unit[0][0].worker


def _weight(unit: Sequence[Loaded], weight: Mapping[str, int]) -> int:
    return sum(weight[worker.kind] for worker, _ in unit)


def _cheapest_to_lose(
    unit: Sequence[Loaded], dear: Mapping[str, float]
) -> tuple[bool, bool, float, int, float, str]:
    """What boots, the newest first; then what is empty; then the dearest for a session, the least loaded."""
    worker, load = unit[0][0], _load(unit)
    booting = worker.state == "booting"
    return not booting, load > 0, -dear.get(worker.kind, math.inf), load, -worker.since_s, worker.worker


def _names(units: Sequence[Sequence[Loaded]]) -> tuple[str, ...]:
    return tuple(worker.worker for unit in units for worker, _ in unit)
