"""A gateway's feeds on a real nats-server, without HTTP around them."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.commands import Placement
from services.gateway.feed import Feed, Seat, Sources
from services.gateway.feeds import Feeds
from services.gateway.ordering import Cursor
from shared.bus import BusAway
from shared.ids import DEFAULT_CELL, DEFAULT_TENANT
from tests.fixtures.gateway import Stage
from tests.fixtures.waiting import WAIT_S, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def feeds(stage: Stage) -> Feeds:
    placement = Placement(stage.bus, DEFAULT_CELL, DEFAULT_TENANT, 2.0)
    return Feeds(Sources("g-1", stage.bus, stage.log, placement, poll_s=0.05, refresh_s=0.2))


async def heard(feed: Feed, seat: Seat) -> None:
    async with asyncio.timeout(WAIT_S):
        await seat.news.wait()
    seat.news.clear()


async def test_subscriptions_and_tasks_are_exactly_back_after_a_hundred_viewers(
    feeds: Feeds, stage: Stage
) -> None:
    def footprint() -> tuple[int, int]:
        return len(stage.bus.client._subs), len(asyncio.all_tasks())

    sessions = [stage.new_session() for _ in range(10)]
    before = footprint()
    leave = asyncio.Event()

    async def view(session: str) -> None:
        async with feeds.watch(stage.sessions[session]) as feed:
            seat = Seat(Cursor(0))
            await feed.sit(seat)
            await leave.wait()
            feed.stand_up(seat)

    viewers = [asyncio.create_task(view(session)) for session in sessions * 10]
    for session in sessions:
        await stage.report(session, viewers=10, granted_through=-1)
    assert len(stage.bus.client._subs) == before[0] + 2 * len(sessions)
    leave.set()
    await asyncio.gather(*viewers)
    for session in sessions:
        await stage.report(session, viewers=0, granted_through=-1)
    await until(lambda: all(n <= b for n, b in zip(footprint(), before, strict=True)), f"{before} again")


async def test_a_change_that_was_not_heard_is_read(feeds: Feeds, stage: Stage) -> None:
    session = stage.new_session()
    async with feeds.watch(stage.sessions[session]) as feed:
        seat = Seat(Cursor(0))
        await feed.sit(seat)
        stage.change_unheard(session, phase="moved")
        await heard(feed, seat)
        assert feed.view.phase == "moved"


async def test_a_log_made_anew_is_followed_from_where_the_viewers_are(feeds: Feeds, stage: Stage) -> None:
    session = stage.new_session()
    await stage.make(session, *range(5))
    async with feeds.watch(stage.sessions[session]) as feed:
        seat = Seat(Cursor(5))
        await feed.sit(seat)
        await stage.bus.client.jetstream().delete_stream(f"TS_{DEFAULT_CELL}_CHUNKS")
        await stage.log.ensure()
        stage.log_is_gone()
        await stage.make(session, 4, 5)
        while feed.tail.next_index < 6:
            await heard(feed, seat)
        entry = await feed.tail.read(5, 0)
        assert entry is not None
        assert entry.chunk.index == 5


async def test_a_feed_of_a_log_that_lost_its_chunks_begins_where_the_row_says(
    feeds: Feeds, stage: Stage
) -> None:
    session = stage.new_session(next_chunk=7)
    async with feeds.watch(stage.sessions[session]) as feed:
        assert feed.tail.next_index == 7
        assert await feed.tail.oldest_held() == 7


async def test_a_feed_that_can_not_begin_leaves_nothing_behind(feeds: Feeds, stage: Stage) -> None:
    before = len(stage.bus.client._subs), len(asyncio.all_tasks())
    session = stage.new_session()
    await stage.bus.close()
    with pytest.raises(BusAway):
        async with feeds.watch(stage.sessions[session]):
            pass
    await until(lambda: len(asyncio.all_tasks()) <= before[1], "the end of its tasks")
    assert not feeds._feeds
