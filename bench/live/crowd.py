"""What a few sessions see while a second worker boots beside theirs, and then with both: a worker measured
alone doesn't know what it shares its processors with.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from bench.live.house import House, Shown
from bench.live.paces import Boot, Paces, paces
from bench.live.replay import Asked, replay
from bench.sim.profiles import Profile
from bench.traces.events import Event
from turboserve.errors import TurboserveError

_WARM_S, _FIRST_S = 3.5, 3.0
"""The first one finds everything cold, and counts nothing."""
_STAYING = (4.0, 4.75, 34.0)
"""When those come who stay: while two share a worker, their chunks fall due apart, also beside a boot. The
third comes once both workers serve.
"""
_ORDER_S = 12.0
_SETTLE_S = 3.0
_COME_S, _EVERY_S, _STAY_S, _COMING = 42.0, 5.9, 5.0, 10
"""Those who come and go once both workers serve, each at another time of a chunk's length."""
_PAUSE_EVERY_S, _PAUSE_S = 7.0, 0.6
"""So do those who stay: after a pause their chunks fall due at another time."""


class Seen(NamedTuple):
    """`busy_s`: the median latency with both workers, `first_s`: to a new session's first chunk then.
    `first_plays_s`: how long that plays.
    """

    paces: Paces
    boot_s: float
    busy_s: float
    first_s: float
    first_plays_s: float


def measured(profile: Profile, seen: Seen, told_later: Sequence[tuple[int, float]]) -> Profile:
    """`profile`: with the curve that a worker measured alone; it becomes as slow, or quick, as sessions saw
    it, and so does `told_later`, what the second one told.
    """
    gpu, known = profile.gpus[0], seen.paces
    own_s = dict(gpu.batch_s)[1]

    def as_seen(curve: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
        return tuple((rows, round(one_s * known.alone_s / own_s, 6)) for rows, one_s in curve)

    gpu = msgspec.structs.replace(gpu, batch_s=as_seen(gpu.batch_s), told_later=as_seen(told_later))
    return msgspec.structs.replace(
        profile,
        gpus=(gpu,),
        deliver_s=0.0,
        start_s=round(max(0.0, seen.first_s - seen.busy_s), 4),
        beside_boot=known.beside_boot,
        beside_busy=known.beside_busy,
        spread=known.spread,
        first_chunk_s=seen.first_plays_s,
        measured="a worker's own curve, as quick as sessions saw it, delivery included",
    )


async def see(url: str, second_worker: Callable[[], Awaitable[None]]) -> Seen:
    """On a system with one worker that may have two. `second_worker` orders it, and returns once it is
    ready. Takes a minute and three quarters. Raises TurboserveError.
    """
    crowd = _Crowd()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replay(crowd_events(), Asked(url), crowd.look))
        await asyncio.sleep(_ORDER_S)
        ordered_s = crowd.now_s()
        await second_worker()
        boot = Boot(ordered_s, crowd.now_s(), crowd.now_s() + _SETTLE_S)
    return seen(crowd.house, boot)


def seen(house: House, boot: Boot) -> Seen:
    shown = [chunk for chunk in house.shown if chunk.due_s > _WARM_S]
    later = [chunk.latency_s for chunk in shown if chunk.usual and chunk.due_s > boot.settled_s]
    first = first_chunks(shown)
    return Seen(
        paces(shown, boot),
        boot.ready_s - boot.ordered_s,
        statistics.median(later),
        statistics.median([chunk.latency_s for chunk in first if chunk.due_s > boot.settled_s]),
        statistics.median([chunk.plays_s for chunk in first]),
    )


def first_chunks(shown: Sequence[Shown]) -> list[Shown]:
    """Of every session. Raises TurboserveError if nobody came while both workers served."""
    first: dict[str, Shown] = {}
    for chunk in shown:
        first.setdefault(chunk.session, chunk)
    if len(first) <= len(_STAYING):
        raise TurboserveError("no_chunks", "sessions that were to be measured showed no chunk in time")
    return list(first.values())


class _Crowd:
    """The replay's own word, twice a second."""

    def __init__(self) -> None:
        self.house = House(lambda: 0.0)

    def look(self, _: float, house: House) -> None:
        self.house = house

    def now_s(self) -> float:
        """Of the replay."""
        return self.house.now()


def crowd_events() -> list[Event]:
    """In order."""
    end_s = _COME_S + _EVERY_S * _COMING
    events = [Event(0.0, "first", "arrive", active=True), Event(_FIRST_S, "first", "depart")]
    for n, at_s in enumerate(_STAYING):
        events += _staying(f"stays-{n}", at_s, _COME_S + _PAUSE_EVERY_S * n / len(_STAYING), end_s)
    for n in range(_COMING):
        at_s = _COME_S + _EVERY_S * n
        events.append(Event(at_s, f"comes-{n}", "arrive", active=True))
        events.append(Event(at_s + _STAY_S, f"comes-{n}", "depart"))
    return sorted(events, key=lambda event: event.time_s)


def _staying(name: str, come_s: float, first_pause_s: float, end_s: float) -> list[Event]:
    events = [Event(come_s, name, "arrive", active=True)]
    pause_s = first_pause_s
    while pause_s + _PAUSE_S < end_s:
        events += [Event(pause_s, name, "idle"), Event(pause_s + _PAUSE_S, name, "active")]
        pause_s += _PAUSE_EVERY_S
    return [*events, Event(end_s, name, "depart")]
