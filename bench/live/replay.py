"""A trace on a live system: users who come, pause, come back and leave, each a viewer of its own."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from bench.bound import bound
from bench.live.fleet import FleetWatch
from bench.live.house import House
from bench.live.viewer import Viewer
from bench.sim.figures import figures
from bench.traces.events import Event
from bench.traces.statistics import demand, summary
from turboserve.client import Client
from turboserve.errors import InvalidRequest, TurboserveError
from turboserve.http_api import HttpApi

MOST_VIEWERS = 1000
"""At once, each with a socket."""

_CLOSING_S = 20.0
_STEP_S = 0.5
_PROBLEMS_TOLD = 5

Progress = Callable[[float, House], None]
"""Called twice a second with the share of the trace that is done."""


class Asked(msgspec.Struct, frozen=True):
    """`speed`: the trace's times are divided by it; video plays as quickly as ever. `latency_target_s` None:
    a worker's capacity is what it says itself.
    """

    url: str | None = None
    speed: float = 1.0
    latency_target_s: float | None = None


async def replay(events: Sequence[Event], asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
    """Raises TurboserveError if the system can't be reached, or is too old to be measured."""
    most = summary(events)["peak_retained"]
    if most > MOST_VIEWERS:
        raise InvalidRequest(
            "too_many_viewers", f"the trace has {most} sessions at once, one replay plays {MOST_VIEWERS}",
            "make a smaller one: turboserve trace make --scale",
        )  # fmt: skip
    async with Client(asked.url) as client:
        api = HttpApi(client.url, trace=False)
        try:
            return await _Replay(scaled(events, asked.speed), asked, client, api).run(progress)
        finally:
            await api.close()


def scaled(events: Iterable[Event], speed: float) -> list[Event]:
    return [msgspec.structs.replace(event, time_s=event.time_s / speed) for event in events]


class _Replay:
    def __init__(self, events: list[Event], asked: Asked, client: Client, api: HttpApi) -> None:
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._begun_s = loop.time()
        self._begun_s = loop.time()
        self._url = client.url
        self._target_s = asked.latency_target_s
        self._events = events
        self._house = House(lambda: self._clock() - self._begun_s, asked.latency_target_s)
        self._fleet = FleetWatch(self._house, client)
        self._viewers = _viewers(self._house, api, events)
        self._bugs: list[str] = []

    async def run(self, progress: Progress | None) -> dict[str, Any]:
        await self._look()
        self._begin()
        tasks = [asyncio.create_task(work) for work in self._works()]
        try:
            await self._to_the_end(progress)
            self._house.now()
            self._house.finish()
            return self._told()
        finally:
            await self._stop(tasks)

    async def _look(self) -> None:
        try:
            await self._fleet.look()
        except TurboserveError as error:
            if error.code != "not_found":
                raise
            raise TurboserveError(
                "too_old", f"the turboserve at {self._url} is older than this command: {error.message}",
                "start a newer one there",
            ) from None  # fmt: skip
        least_s = min((kind.latency_s[1] for kind in self._house.kinds_told()), default=0.0)
        if self._target_s is not None and self._target_s < least_s:
            raise InvalidRequest(
                "invalid_field",
                f"the latency target of {self._target_s * 1000:g} ms is below what one session alone takes "
                f"there: {least_s * 1000:.0f} ms",
            )

    def _begin(self) -> None:
        """The clock starts now: what lies before counts nothing."""
        self._begun_s = self._clock()
        self._house.meter.now_s = 0.0
        self._house.meter.gpu_s = self._house.meter.node_s = self._house.meter.cost = 0.0

    def _works(self) -> Iterable[Coroutine[Any, Any, None]]:
        yield self._fleet.run()
        for viewer in self._viewers:
            yield self._play(viewer)

    async def _play(self, viewer: Viewer) -> None:
        try:
            await viewer.run(self._until)
        except Exception as error:  # noqa: BLE001 - one viewer must not end the others
            self._bugs.append(repr(error))

    async def _until(self, time_s: float) -> None:
        await asyncio.sleep(self._begun_s + time_s - self._clock())

    async def _to_the_end(self, progress: Progress | None) -> None:
        end_s = self._events[-1].time_s
        for step_s in itertools.count(_STEP_S, _STEP_S):
            await self._until(min(step_s, end_s))
            if progress:
                progress(min(1.0, step_s / end_s), self._house)
            if step_s >= end_s:
                return

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSING_S):
                await asyncio.gather(*(viewer.close() for viewer in self._viewers))
        except TimeoutError:
            return  # the system closes by itself what nobody watches

    def _told(self) -> dict[str, Any]:
        plan, meter, events = self._fleet.plan, self._house.meter, self._events
        shown = figures(meter)
        if not self._house.kinds_told():
            shown["worst_latency_ms"] = None
        problems = [*self._bugs, *(why for viewer in self._viewers for why in viewer.problems)]
        return {
            "policy": (plan.policy or None) if plan else None,
            "profile": None,
            "sessions": len(self._viewers),
            "duration_s": events[-1].time_s,
            "max_gpus": plan.maximum if plan else self._fleet.most_workers,
            **shown,
            "bound": self._bound(),
            "failed": len(self._bugs) + sum(viewer.failed for viewer in self._viewers),
            "lost_chunks": sum(viewer.lost_chunks for viewer in self._viewers),
            "problems": problems[:_PROBLEMS_TOLD],
            "boot_s": [round(boot_s, 1) for boot_s in self._fleet.boots_s],
        }

    def _bound(self) -> dict[str, float | None]:
        """By the newest worker's own latencies and capacity, and the boots that were seen (none: as if a
        worker were there at once).
        """
        fleet, steps = self._fleet, demand(self._events)
        if not (kinds := self._house.kinds_told()):
            return {"gpu_seconds": None, "worst_latency_ms": None}
        kind, boot_s = kinds[-1], statistics.fmean(fleet.boots_s) if fleet.boots_s else 0.0
        most, least = (fleet.plan.maximum, fleet.plan.minimum) if fleet.plan else (fleet.most_workers,) * 2
        return {
            "gpu_seconds": round(bound.least_gpu_s(steps, kind.capacity, boot_s, 1, least), 3),
            "worst_latency_ms": round(1000 * bound.least_worst_s(steps, [kind] * most), 3),
        }


def _viewers(house: House, api: HttpApi, events: Iterable[Event]) -> list[Viewer]:
    own: dict[str, list[Event]] = {}
    for event in events:
        own.setdefault(event.session, []).append(event)
    return [Viewer(house, api, given, number) for number, given in enumerate(own.values())]
