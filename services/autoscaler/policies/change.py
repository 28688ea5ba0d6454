"""From a number of workers to what is to be done: un-drain before buying, give back what boots before what
serves, drain what is nearly empty, release what is empty, and all that by whole nodes where only those are
sold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from services.autoscaler.policies.view import Change, View, Worker

Loaded = tuple[Worker, int]


def clamp(desired: int, view: View) -> int:
    """Within the operator's limits, and whole nodes: up to the next, unless that is more than may be had."""
    if view.frozen:
        return sum(worker.state != "draining" for worker in view.workers)
    limited = max(view.minimum, min(desired + view.spare, view.maximum))
    nodes = min(math.ceil(limited / view.node_size), view.maximum // view.node_size)
    return nodes * view.node_size


def to_count(desired: int, view: View, *, undrain: bool = True) -> Change:
    """`desired` is within the limits already. `undrain` False: what drains is let go, come what may."""
    units = _units(view)
    staying = [unit for unit in units if not _draining(unit)]
    missing = desired // view.node_size - len(staying)
    draining = [unit for unit in units if _draining(unit)]
    kept: list[list[Loaded]] = []
    if missing > 0 and undrain:
        kept = sorted(draining, key=_fullest_first)[:missing]
        missing -= len(kept)
    missing = min(missing, (view.maximum - len(view.workers)) // view.node_size)
    surplus = max(0, len(staying) - desired // view.node_size)
    leaving = sorted(staying, key=_cheapest_to_lose)[:surplus] if surplus else []
    gone = [unit for unit in draining if unit not in kept and not _load(unit)]
    gone += [unit for unit in leaving if not _load(unit)]
    return Change(
        start={view.kinds[0].kind: missing * view.node_size} if missing > 0 else {},
        undrain=_names(kept),
        drain=_names([unit for unit in leaving if _load(unit)]),
        release=_names(gone),
    )


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


def _cheapest_to_lose(unit: Sequence[Loaded]) -> tuple[bool, int, float, str]:
    """What boots, the newest first; then the least loaded."""
    worker = unit[0][0]
    return worker.state != "booting", _load(unit), -worker.since_s, worker.worker


def _names(units: Sequence[Sequence[Loaded]]) -> tuple[str, ...]:
    return tuple(worker.worker for unit in units for worker, _ in unit)
