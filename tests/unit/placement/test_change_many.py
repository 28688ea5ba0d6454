"""What one decision changes is saved together, once, and by the leader alone."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from services.placement.facts import Placed
from services.placement.live import Live
from services.placement.records import Records
from services.placement.sessions import Sessions
from shared.bus import Refused
from shared.ids import new_session_id
from shared.store import leases, outbox, sessions
from shared.store.engine import Store, open_store
from tests.unit.placement.examples import make_row


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = await open_store(database_url, wait_s=10)
    yield store
    await store.close()


async def leader(store: Store, holder: str) -> Sessions:
    """With a lease that the next one may take at once."""
    async with store.begin() as transaction:
        lease = await leases.acquire(transaction, "placement-main", holder, -1.0)
        assert lease is not None
    found = Sessions(Records(store, lease, "main", lambda: None))
    await found.load(0.0)
    return found


async def opened(leading: Sessions, count: int) -> list[Live]:
    rows = [make_row("queued", id=new_session_id("main"), epoch=0, revision=1) for _ in range(count)]
    return [live for row in rows if (live := (await leading.add(row, [])).live) is not None]


PLACED = Placed("w-1", "i-1", "p-1")


async def test_all_that_a_decision_changes_is_saved_with_its_events(store: Store) -> None:
    leading = await leader(store, "p-1")
    first, second, busy = await opened(leading, 3)
    async with busy.lock:
        changed = await leading.change_many([(live, [PLACED]) for live in (first, second, busy)], "p-1")
    assert [change.row.id for change in changed] == [first.row.id, second.row.id]
    assert all((c.row.status, c.row.decision, len(c.commands)) == ("active", "p-1", 1) for c in changed)
    assert (busy.row.status, busy.doubtful) == ("queued", False), "left to the next decision"
    async with store.begin() as transaction:
        assert await sessions.get(transaction, first.row.id) == first.row
        names = [event.subject.rpartition(".")[2] for event in await outbox.unpublished(transaction, 9)]
    assert names == ["opened"] * 3 + ["started"] * 2


async def test_a_row_that_another_has_changed_is_looked_at_again(store: Store) -> None:
    leading = await leader(store, "p-1")
    mine, foreign = await opened(leading, 2)
    async with store.begin() as transaction:
        await sessions.update(
            transaction, msgspec.structs.replace(foreign.row, revision=2, decision="p-0"), 1
        )
    changed = await leading.change_many([(live, [PLACED]) for live in (mine, foreign)], "p-1")
    assert [change.row.id for change in changed] == [mine.row.id]
    assert foreign.doubtful
    await leading.settle_doubtful()
    assert (foreign.row.decision, foreign.doubtful) == ("p-0", False)


async def test_who_leads_no_more_carries_nothing_out(store: Store) -> None:
    """The next leader sees the same sessions and decides for itself: each is placed once."""
    former = await leader(store, "p-1")
    (live,) = await opened(former, 1)
    following = await leader(store, "p-2")
    taken = following.live[live.row.id]
    assert await following.change_many([(taken, [Placed("w-2", "i-2", "p-2")])], "p-2")
    with pytest.raises(Refused):
        await former.change_many([(live, [PLACED])], "p-1")
    async with store.begin() as transaction:
        row = await sessions.get(transaction, live.row.id)
        started = [e for e in await outbox.unpublished(transaction, 9) if e.subject.endswith("started")]
    assert row == taken.row
    assert (row.epoch, row.decision, len(started)) == (1, "p-2", 1)
