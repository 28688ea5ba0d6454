"""Links to other workers, made when this one has become ready, so that no move waits for its link."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import nats.errors

from services.worker.holdings import unsubscribe
from services.worker.mover.links import Links
from services.worker.mover.shipping import FAILURES
from shared.bus import Bus, Meta
from shared.contracts.fleet import LoadReport
from shared.contracts.moves import Compatibility, compatibility_of
from shared.contracts.subjects import LOAD_REPORT

logger = logging.getLogger(__name__)

_ROUNDS_AFTER_S = (0.0, 5.0, 30.0)  # who wasn't heard, or couldn't be reached, may be in the next one
_LISTEN_S = 1.2  # who is there reports twice a second
_AFTER_THE_OTHER_S = 1.0
_OPEN_S = 5.0


class Wanted(NamedTuple):
    """`offered`: the peer's transports; at least one of them is this worker's too."""

    peer: str
    offered: tuple[str, ...]


def neighbours(
    me: str, mine: Compatibility, transports: Sequence[str], reports: Mapping[str, LoadReport], limit: int
) -> list[Wanted]:
    """At most `limit` ready workers to which sessions could move. Where there are more, those whose ids lie
    next to this one's in a circle: so both of a pair choose each other, and no cache of links overflows.
    """
    found: list[Wanted] = []
    for peer in _from(me, reports):
        report = reports[peer]
        if report.state != "ready" or compatibility_of(report.model) != mine:
            continue
        if set(transports) & set(report.transports):
            found.append(Wanted(peer, tuple(report.transports)))
    if len(found) <= limit:
        return found
    before = limit // 2
    return found[: limit - before] + (found[-before:] if before else [])


def _from(me: str, peers: Mapping[str, LoadReport]) -> list[str]:
    others = sorted(peer for peer in peers if peer != me)
    return [peer for peer in others if peer > me] + [peer for peer in others if peer < me]


class LinksAhead:
    """Event loop only. A link that can't be made is left to the first move that needs it."""

    def __init__(self, bus: Bus, cell: str, me: str, links: Links, mine: Compatibility, limit: int) -> None:
        self._bus, self._cell, self._me = bus, cell, me
        self._links, self._mine, self._limit = links, mine, limit

    async def run(self) -> None:
        """Once this worker reports that it is ready: whoever is so later finds it, and does the same."""
        for after_s in _ROUNDS_AFTER_S if self._limit else ():
            await asyncio.sleep(after_s)
            try:
                await self._round(await self._heard())
            except nats.errors.Error as error:
                logger.info("no links ahead of moves: %s", error)

    async def _round(self, reports: Mapping[str, LoadReport]) -> None:
        wanted = neighbours(self._me, self._mine, self._links.names, reports, self._limit)
        for peer, offered in wanted:
            if self._me < peer:
                await self._open(peer, offered)
        await asyncio.sleep(_AFTER_THE_OTHER_S)  # two that become ready at once: the lower id begins
        for peer, offered in wanted:
            await self._open(peer, offered)

    async def _heard(self) -> dict[str, LoadReport]:
        reports: dict[str, LoadReport] = {}

        def hear(report: LoadReport, _meta: Meta) -> None:
            reports[report.worker] = report

        listening = await self._bus.subscribe(LOAD_REPORT, hear, cell=self._cell)
        await asyncio.sleep(_LISTEN_S)
        await unsubscribe(listening)
        return reports

    async def _open(self, peer: str, offered: Sequence[str]) -> None:
        try:
            await self._links.open_best(peer, offered, _OPEN_S)
        except FAILURES as error:
            logger.info("no link to %s ahead of a move: %s", peer, error)
