"""What a few sessions see while a second worker boots beside theirs, and then with both: a worker measured
alone doesn't know what it shares its processors with.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from bench.live.house import House
from bench.live.replay import Asked, replay
from bench.sim.profiles import Profile
from bench.traces.events import Event
from turboserve.errors import TurboserveError

_ALONE = (
    Event(0.0, "first", "arrive", active=True),
    Event(3.0, "first", "depart"),
    Event(4.0, "alone", "arrive", active=True),
    Event(18.0, "alone", "depart"),
)
"""The first one finds everything cold."""
_STAYING, _COMING = 3, 6
"""Sessions all the time, about as many as the trace's chunks have beside them; and those that come once both
workers serve, for how soon a new one is shown something."""
_ORDER_S, _COME_S, _EVERY_S, _STAY_S = 5.0, 36.0, 6.0, 4.5
_SETTLE_S = 3.0


class Seen(NamedTuple):
    """Medians. `alone_s`: of a chunk's latency with one session on one worker; `beside_boot_s`: of several,
    while another worker boots, `busy_s`: with both. `first_s`: to a new session's first chunk then.
    """

    alone_s: float
    boot_s: float
    beside_boot_s: float
    busy_s: float
    first_s: float


def measured(profile: Profile, seen: Seen) -> Profile:
    """`profile`: with the curve that a worker measured alone."""
    gpu = profile.gpus[0]
    alone_s = dict(gpu.batch_s)[1]
    deliver_s = max(0.0, seen.alone_s - alone_s)
    step_s = max(alone_s, seen.busy_s - deliver_s)
    slowed = tuple((rows, round(one_s * step_s / alone_s, 6)) for rows, one_s in gpu.batch_s)
    return msgspec.structs.replace(
        profile,
        gpus=(msgspec.structs.replace(gpu, batch_s=slowed),),
        deliver_s=round(deliver_s, 4),
        start_s=round(max(0.0, seen.first_s - seen.busy_s), 4),
        beside_boot=round(max(1.0, (seen.beside_boot_s - deliver_s) / step_s), 3),
        measured="a worker's own curve, as much slower as sessions saw it with both workers playing",
    )


async def see(url: str, second_worker: Callable[[], Awaitable[None]]) -> Seen:
    """On a system with one worker that may have two. `second_worker` orders it, and returns once it is
    ready. Takes a minute and three quarters. Raises TurboserveError.
    """
    alone = await replay(_ALONE, Asked(url))
    crowd = _Crowd()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replay(_crowd(), Asked(url), crowd.look))
        await asyncio.sleep(_ORDER_S)
        ordered_s, before = crowd.now()
        await second_worker()
        ready_s, after = crowd.now()
        await asyncio.sleep(_SETTLE_S)
        _, settled = crowd.now()
    meter = crowd.house.meter
    return Seen(
        _median([(alone["chunk_latency_ms"]["p50"] or 0.0) / 1000]),
        ready_s - ordered_s,
        _median(meter.latencies_s[before:after]),
        _median(meter.latencies_s[settled:]),
        _median(meter.ttfc_s[_STAYING:]),
    )


def _median(values_s: Sequence[float]) -> float:
    if not values_s or not all(values_s):
        raise TurboserveError("no_chunks", "sessions that were to be measured showed no chunk in time")
    return statistics.median(values_s)


class _Crowd:
    """The replay's own word, twice a second."""

    def __init__(self) -> None:
        self.house = House(lambda: 0.0)

    def look(self, _: float, house: House) -> None:
        self.house = house

    def now(self) -> tuple[float, int]:
        """Seconds of the replay, and chunks so far."""
        return self.house.now(), len(self.house.meter.latencies_s)


def _crowd() -> list[Event]:
    end_s = _COME_S + _EVERY_S * _COMING
    events = [Event(0.0, f"stays-{n}", "arrive", active=True) for n in range(_STAYING)]
    for n in range(_COMING):
        at_s = _COME_S + _EVERY_S * n
        events.append(Event(at_s, f"comes-{n}", "arrive", active=True))
        events.append(Event(at_s + _STAY_S, f"comes-{n}", "depart"))
    return [*events, *(Event(end_s, f"stays-{n}", "depart") for n in range(_STAYING))]
