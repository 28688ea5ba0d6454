"""A view without what can't be true, so that a policy needn't mind and never ends its service.

Whoever makes views makes sound ones; this is for the day when a report is broken.
"""

from __future__ import annotations

import math

import msgspec

from services.autoscaler.policies.view import Change, Decision, Kind, View


def sound(view: View) -> View:
    """Of two workers with one name the first counts; a load that isn't told is none."""
    if not _is_sound(view):
        loads = dict(zip(reversed([w.worker for w in view.workers]), _loads_backwards(view), strict=True))
        workers = {worker.worker: worker for worker in reversed(view.workers)}
        view = msgspec.structs.replace(
            view,
            now_s=_finite(view.now_s),
            workers=tuple(reversed(workers.values())),
            loads=tuple(max(0, loads[name]) for name in reversed(workers)),
            kinds=tuple(map(_possible, view.kinds)),
            node_size=max(1, view.node_size),
            active=max(0, view.active),
            idle=max(0, view.idle),
            rho_max=_finite(view.rho_max),
        )
    return view


def nothing_to_decide(view: View, memory: object) -> Decision:
    """No kind of worker can be had: what there is stays."""
    have = sum(worker.state != "draining" for worker in view.workers)
    return Decision(have, Change(), "no kind of worker can be had", memory)


def _is_sound(view: View) -> bool:
    names = {worker.worker for worker in view.workers}
    return (
        len(names) == len(view.workers) == len(view.loads)
        and math.isfinite(view.now_s)
        and math.isfinite(view.rho_max)
        and view.node_size >= 1
        and min(view.active, view.idle, *view.loads) >= 0
        and all(_possible(kind) is kind for kind in view.kinds)
    )


def _loads_backwards(view: View) -> list[int]:
    missing = len(view.workers) - len(view.loads)
    loads = [*view.loads, *[0] * missing][: len(view.workers)]
    return loads[::-1]


def _possible(kind: Kind) -> Kind:
    prices = math.isfinite(kind.price_per_s) and math.isfinite(kind.boot_s) and kind.boot_s >= 0.0
    if kind.capacity >= 1 and kind.latency_s and prices:
        return kind
    return msgspec.structs.replace(
        kind,
        capacity=max(1, kind.capacity),
        latency_s=kind.latency_s or (0.0, 0.0),
        price_per_s=_finite(kind.price_per_s),
        boot_s=max(0.0, _finite(kind.boot_s)),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
