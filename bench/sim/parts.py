"""Workers and sessions as the simulation holds them. Times are simulated seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from bench.sim.profiles import Gpu
from services.autoscaler.policies import view as fleet
from services.placement.policies import view as placement
from services.worker.curve import paying_rows

NEVER_S = -math.inf


class KindOfWorker:
    """What all workers of a kind share. `rows[n]`: how many of n ready chunks are made together. `later`: the
    same for those that boot while others serve; None: they are alike.
    """

    def __init__(self, gpu: Gpu, target_s: float) -> None:
        self.gpu = gpu
        self.later: KindOfWorker | None = None
        self.latency_s = gpu.latency_s()
        self.capacity = gpu.capacity(target_s)
        curve = gpu.curve()
        self.batch_s: Mapping[int, float] = dict(gpu.batch_s)
        self.rows = [0, *(paying_rows(curve, ready) for ready in range(1, gpu.slots + 1))]
        if gpu.told_later:
            known = tuple(point for point in gpu.told_later if point[0] in self.batch_s)
            told = msgspec.structs.replace(gpu, batch_s=known, told_later=())
            self.later = KindOfWorker(told, target_s)
            self.later.batch_s = self.batch_s


class SimWorker:
    """`active`: sessions it has, `load`: what they take, in sessions at the full rung. `ready`: those of them
    whose chunk is due and not begun. `batch`: whose chunks are being made.
    """

    __slots__ = (
        *(
            "active",
            "batch",
            "kind",
            "load",
            "name",
            "node",
            "ordered_s",
            "ready",
            "seen_fleet",
            "seen_placement",
            "state",
        ),
        "since_s",
    )

    def __init__(self, name: str, node: str, kind: KindOfWorker, now_s: float) -> None:
        self.name = name
        self.node = node
        self.kind = kind
        self.ordered_s = now_s
        self.ready: list[SimSession] = []
        self.batch: list[SimSession] = []
        self.active = 0
        self.load = 0.0
        self.become("booting", now_s)

    def become(self, state: str, now_s: float, ready_at_s: float = 0.0) -> None:
        self.state, self.since_s = state, now_s
        gpu = self.kind.gpu
        self.seen_fleet = fleet.Worker(self.name, gpu.kind, state, now_s, self.node, ready_at_s)  # type: ignore[arg-type]
        self.seen_placement = placement.Worker(
            worker=self.name,
            kind=gpu.kind,
            state="starting" if state == "booting" else state,  # type: ignore[arg-type]
            capacity=self.kind.capacity,
            slots=gpu.slots,
            latency_s=self.kind.latency_s,
            price_per_s=gpu.price_per_s,
            node=self.node,
            since_s=now_s,
        )

    def pick(self) -> list[SimSession]:
        """Takes the chunks to make next out of `ready`: what `plan_batch` answers where a chunk is one
        step.
        """
        ready = self.ready
        if len(ready) == 1:
            self.ready = []
            return ready
        ready.sort(key=_urgency)
        rows = self.kind.rows[min(len(ready), len(self.kind.rows) - 1)]
        self.ready = ready[rows:]
        return ready[:rows]


class SimSession:
    """`due_s`: since when its next chunk is due. `play_end_s`: when its viewer runs dry; `before_end_s`:
    when the chunk before the newest has played out. Paused, these two are what is left to play instead.
    `weight`: what it takes of a worker now. `turn` grows with every change that makes an earlier plan for
    its next chunk void.
    """

    __slots__ = (
        *(
            "active",
            "active_from_s",
            "before_end_s",
            "chunks",
            "due_s",
            "gone",
            "here",
            "home",
            "making",
            "name",
        ),
        *("not_before_s", "number", "play_end_s", "queued_s", "refused", "turn", "wanted_s", "weight"),
    )

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.active = False
        self.active_from_s = 0.0
        self.here: SimWorker | None = None
        self.home: SimWorker | None = None
        self.making = False
        self.gone = False
        self.refused = False
        self.chunks = 0
        self.turn = 0
        self.due_s = 0.0
        self.not_before_s = 0.0
        self.play_end_s = NEVER_S
        self.before_end_s = NEVER_S
        self.wanted_s = 0.0
        self.weight = 1.0
        self.queued_s = 0.0


def _urgency(session: SimSession) -> tuple[float, int]:
    return session.play_end_s, session.number
