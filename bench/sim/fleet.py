"""Workers that are ordered, boot, serve and are given back, as a provider would have it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from statistics import median

import msgspec

from bench.sim.parts import KindOfWorker, SimWorker
from bench.sim.world import World
from services.autoscaler.knowledge import BOOTS_KEPT
from services.autoscaler.policies import view
from services.autoscaler.policies.view import Change

_LONG_AGO_S = -86_400.0


class Terms(msgspec.Struct, frozen=True):
    """`boot_fail_ratio`: share of boots that end in nothing after their time. `node_size`: workers that are
    sold together. `learned_boot_s`: what a policy takes for the boot at first, and the median with those it
    has seen since, as the live autoscaler does; None: it knows.
    """

    boot_s: float
    boot_fail_ratio: float = 0.0
    node_size: int = 1
    maximum: int = 1_000_000
    learned_boot_s: float | None = None


class Fleet:
    """`workers`: all that are paid for, by name, in the order in which they came. `serving`: how many of them
    could serve, since when.
    """

    def __init__(
        self, world: World, kinds: list[KindOfWorker], terms: Terms, rng: Random, changed: Callable[[], None]
    ) -> None:
        self.workers: dict[str, SimWorker] = {}
        self.serving: list[tuple[float, int]] = [(0.0, 0)]
        self.kinds = kinds
        self._world = world
        self._terms = terms
        self._rng = rng
        self._changed = changed
        self._names = itertools.count()
        self._nodes = itertools.count()
        self._boots_s = [terms.boot_s if terms.learned_boot_s is None else terms.learned_boot_s]
        self.seen_kinds = self._see_kinds()

    def _see_kinds(self) -> tuple[view.Kind, ...]:
        boot_s = median(self._boots_s)
        told = (view.Kind(k.gpu.kind, k.capacity, k.latency_s, k.gpu.price_per_s, boot_s) for k in self.kinds)
        return tuple(sorted(told, key=lambda kind: kind.price_per_s / kind.capacity))

    def begin(self, count: int) -> None:
        """Workers that are ready from the start, and have been for long."""
        for worker in self._order(self.seen_kinds[0].kind, count, later=False):
            worker.become("ready", _LONG_AGO_S)
            self._serve(1)

    def apply(self, change: Change) -> None:
        world = self._world
        world.meter.advance(world.now_s)
        world.meter.scale_events += bool(change)
        for name in change.undrain:
            self.workers[name].become("ready", world.now_s)
        for name in change.drain:
            self.workers[name].become("draining", world.now_s)
        for name in change.release:
            self._release(name)
        for kind, count in change.start.items():
            self._start(kind, count)
        self._changed()

    def _start(self, kind: str, count: int) -> None:
        boot_s = self._terms.boot_s
        for worker in self._order(kind, count, later=True):
            if boot_s <= 0.0:
                self._ready(worker)
                continue
            failing = self._rng.random() < self._terms.boot_fail_ratio
            ready_at_s = self._world.now_s + boot_s
            worker.become("booting", self._world.now_s, ready_at_s)
            self._world.booting += 1
            self._world.at(ready_at_s, self._booted, worker, failing)

    def _order(self, kind: str, count: int, *, later: bool) -> list[SimWorker]:
        size = self._terms.node_size
        room = max(0, self._terms.maximum - len(self.workers)) // size
        bought = []
        for _ in range(min(count // size, room)):
            node = f"node{next(self._nodes)}" if size > 1 else ""
            bought += [self._add(kind, node, later=later) for _ in range(size)]
        return bought

    def _add(self, kind: str, node: str, *, later: bool) -> SimWorker:
        sold = next(known for known in self.kinds if known.gpu.kind == kind)
        sold = sold.later or sold if later else sold
        worker = SimWorker(f"w{next(self._names)}", node, sold, self._world.now_s)
        self.workers[worker.name] = worker
        self._world.meter.rent(worker, 1)
        return worker

    def _booted(self, worker: SimWorker, failing: bool) -> None:
        if worker.state != "booting" or worker.name not in self.workers:
            return
        self._world.meter.advance(self._world.now_s)
        if failing and not worker.node:
            self._release(worker.name)
        else:
            self._world.booting -= 1
            self._ready(worker)
            self._learn()
        self._changed()

    def _learn(self) -> None:
        self._boots_s = [*self._boots_s, self._terms.boot_s][-BOOTS_KEPT:]
        self.seen_kinds = self._see_kinds()

    def _ready(self, worker: SimWorker) -> None:
        worker.become("ready", self._world.now_s)
        self._serve(1)

    def _serve(self, change: int) -> None:
        self.serving.append((self._world.now_s, self.serving[-1][1] + change))

    def _release(self, name: str) -> None:
        worker = self.workers.pop(name)
        assert not worker.active
        if worker.state != "booting":
            self._serve(-1)
        self._world.booting -= worker.state == "booting"
        worker.state = "released"
        self._world.meter.rent(worker, -1)
