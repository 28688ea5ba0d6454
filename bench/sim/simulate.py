"""One trace, one policy, one profile: what it would have been like, as the object that `turboserve
simulate` prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

from bench.bound import bound
from bench.bound.keeping import least_worst_keeping_s
from bench.sim.control import Control, Limits
from bench.sim.figures import figures
from bench.sim.fleet import Fleet, Terms
from bench.sim.meter import Meter
from bench.sim.parts import KindOfWorker
from bench.sim.profiles import PROFILES, Profile
from bench.sim.world import World
from bench.traces.events import Event
from bench.traces.statistics import demand, peak_active
from services.autoscaler.policies import registry as fleet_policies
from services.placement.policies import registry as placement_policies

FIXED = frozenset({"fixed-rr", "fixed-ll", "ll-resume", "memory-greedy"})
POLICIES = tuple(placement_policies.POLICIES)


class Impossible(Exception):
    """What was asked for contradicts itself; says how, in words."""


class Options(msgspec.Struct, frozen=True):
    """`max_gpus` None: for a fixed fleet the least that holds the trace's peak, else twice that.
    `settings`: of the policies, by field name; a name that neither has is refused. `latency_target_s` None:
    the profile's. `profile`: the name of one, or one that was measured just now. `floor_rung_weight`: what a
    session takes of a worker one step down, against 1 at the full rung; None: nobody steps down.
    `learned_boot_s`: what the fleet's policy takes a boot for until it has seen one; None: it knows.
    `idle_s`: for how long it has watched an empty system before.
    """

    policy: str = "turboserve"
    profile: str | Profile = "h100-1.3b"
    boot_s: float = 30.0
    learned_boot_s: float | None = None
    idle_s: float = 0.0
    boot_fail_ratio: float = 0.0
    min_gpus: int = 1
    max_gpus: int | None = None
    node_size: int = 1
    seed: int = 1
    latency_target_s: float | None = None
    floor_rung_weight: float | None = None
    settings: dict[str, Any] = {}


Progress = Callable[[float], None]
"""Called now and then with the share that is done."""


def simulate(events: Sequence[Event], options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Raises Impossible."""
    profile, kinds = _kinds(options)
    limits = _limits(events, options, kinds)
    run = _Run(events, options, profile, kinds, limits)
    meter = run.to_the_end(progress)
    return {
        "policy": options.policy,
        "profile": profile.name,
        "sessions": sum(event.event == "arrive" for event in events),
        "duration_s": events[-1].time_s,
        "max_gpus": limits.maximum,
        **figures(meter),
        **_stepped_down(options, meter),
        "bound": {**_bound(events, options, kinds, limits), **_keeping(events, run.fleet, kinds[0])},
    }


def _stepped_down(options: Options, meter: Meter) -> dict[str, float]:
    """Share of all active time, where anybody may be."""
    if options.floor_rung_weight is None:
        return {}
    return {"stepped_down": round(meter.stepped_s / meter.active_s if meter.active_s else 0.0, 6)}


def _bound(
    events: Sequence[Event], options: Options, kinds: list[KindOfWorker], limits: Limits
) -> dict[str, float]:
    """For fleets of one kind. The latency is that of `max_gpus` workers that are there all the time."""
    steps, kind, size = demand(events), kinds[0], options.node_size
    least_s = bound.least_worst_s(steps, [kind] * limits.maximum)
    return {
        "gpu_seconds": round(
            bound.least_gpu_s(steps, kind.capacity, options.boot_s, size, limits.minimum), 3
        ),
        "worst_latency_ms": round(1000 * least_s, 3),
    }


def _keeping(events: Sequence[Event], fleet: Fleet, kind: KindOfWorker) -> dict[str, float]:
    """The least on the workers that there were, if nobody may be served beyond capacity."""
    return {"worst_latency_keeping_ms": round(1000 * least_worst_keeping_s(events, fleet.serving, kind), 3)}


def _kinds(options: Options) -> tuple[Profile, list[KindOfWorker]]:
    profile = options.profile if isinstance(options.profile, Profile) else PROFILES.get(options.profile)
    if profile is None:
        raise Impossible(f"there is no profile {options.profile}: {', '.join(PROFILES)}")
    if options.policy not in POLICIES:
        raise Impossible(f"there is no policy {options.policy}: {', '.join(POLICIES)}")
    target_s = profile.target_s if options.latency_target_s is None else options.latency_target_s
    if options.floor_rung_weight is not None and not 0.0 < options.floor_rung_weight <= 1.0:
        raise Impossible(f"a floor rung's weight of {options.floor_rung_weight:g} is not within 0 and 1")
    kinds = [KindOfWorker(gpu, min(target_s, profile.chunk_s)) for gpu in profile.gpus]
    least_s = min(kind.latency_s[1] for kind in kinds)
    if target_s < least_s:
        raise Impossible(
            f"the latency target of {target_s * 1000:g} ms is below what one session alone takes on "
            f"{profile.name}: {least_s * 1000:g} ms"
        )
    return profile, kinds


def _limits(events: Sequence[Event], options: Options, kinds: list[KindOfWorker]) -> Limits:
    size = options.node_size
    needed = math.ceil(max(1, peak_active(events)) / min(kind.capacity for kind in kinds))
    own = needed if options.policy in FIXED else 2 * needed
    maximum = (
        math.ceil(max(own, options.min_gpus) / size) * size if options.max_gpus is None else options.max_gpus
    )
    if options.min_gpus > maximum:
        raise Impossible(
            f"at least {options.min_gpus} GPUs and at most {maximum}: raise the one or lower the other"
        )
    if maximum < size:
        raise Impossible(f"at most {maximum} GPUs are less than a node of {size}")
    return Limits(options.min_gpus, maximum, size)


def _policies(options: Options) -> tuple[Any, Any]:
    known = {
        *placement_policies.POLICIES[options.policy].__struct_fields__,
        *fleet_policies.POLICIES[options.policy].__struct_fields__,
    }
    if unknown := sorted(set(options.settings) - known):
        raise Impossible(
            f"{options.policy} has no setting {unknown[0]}: {', '.join(sorted(known)) or 'none'}"
        )
    try:
        return tuple(r.named(options.policy, options.settings) for r in (placement_policies, fleet_policies))
    except msgspec.ValidationError as error:
        raise Impossible(f"a setting of {options.policy}: {error}") from None


class _Run:
    def __init__(
        self,
        events: Sequence[Event],
        options: Options,
        profile: Profile,
        kinds: list[KindOfWorker],
        limits: Limits,
    ) -> None:
        self._events = events
        self._fixed = options.policy in FIXED
        self._limits = limits
        self._idle_s = options.idle_s
        placement, fleet = _policies(options)
        self.world = World(profile, options.seed)
        self.control = Control(self.world, placement, fleet, limits, options.floor_rung_weight or 1.0)
        terms = Terms(
            options.boot_s,
            options.boot_fail_ratio,
            options.node_size,
            limits.maximum,
            options.learned_boot_s,
        )
        self.fleet = Fleet(self.world, kinds, terms, Random(options.seed), self.control.touch)
        self.control.fleet = self.fleet

    def to_the_end(self, progress: Progress | None) -> Meter:
        self.fleet.begin(self._limits.maximum if self._fixed else self._whole_nodes(self._limits.minimum))
        if self._idle_s:
            self.control.watched_empty(self._idle_s)
        self.control.touch()
        world, end_s = self.world, self._events[-1].time_s
        for event in self._events:
            world.at(event.time_s, self._happen, event)
        steps = 50 if progress else 1
        for step in range(1, steps + 1):
            world.run(end_s * step / steps)
            if progress:
                progress(step / steps)
        world.finish()
        return world.meter

    def _whole_nodes(self, count: int) -> int:
        return math.ceil(count / self._limits.node_size) * self._limits.node_size

    def _happen(self, event: Event) -> None:
        world, control = self.world, self.control
        counts = control.counts
        if event.event == "arrive":
            session = world.arrive(event.session)
            control.idle += 1
            counts = _plus(counts, arrived=1, arrived_active=int(event.active is True))
        else:
            session = world.sessions[event.session]
        begins = event.event == "active" or event.active is True
        ends = session.active and event.event in ("idle", "depart")
        if begins:
            world.activate(session)
        elif ends:
            world.pause(session)
        control.idle += ends - begins - (event.event == "depart")
        if event.event == "active":
            counts = _plus(counts, activated=1)
        elif event.event == "idle":
            counts = _plus(counts, idled=1)
        elif event.event == "depart":
            counts = _plus(counts, departed=1, departed_active=int(ends))
            world.depart(session)
        control.counts = counts
        control.touch(session)


def _plus(counts: Any, **more: int) -> Any:
    return msgspec.structs.replace(counts, **{name: getattr(counts, name) + n for name, n in more.items()})
