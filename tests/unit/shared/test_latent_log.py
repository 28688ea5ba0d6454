"""The store of latents on a real JetStream: bounded by session, whole or nothing, there after a restart."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids
from shared.bus import Bus, BusAway
from shared.contracts.stream import Latents
from shared.contracts.subjects import LATENTS
from shared.latent_log import LatentLog, LatentSettings, LatentsTooLarge, Window, newest_past
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.waiting import WAIT_S

TENANT = "default"
WINDOW = Window(recent=3, sinks=1)


def latents(session: str, index: int, origin: int = 0, data: bytes = b"1234", epoch: int = 1) -> Latents:
    return Latents(session, index, origin, epoch, f"prompt {index}", [1, 4], "uint8", data)


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    connected = Bus(nats_url, "test-1")
    await connected.connect(WAIT_S)
    yield connected
    await connected.close()


@pytest.fixture
async def log(bus: Bus) -> LatentLog:
    store = LatentLog(bus, "main", timeout_s=WAIT_S)
    await store.ensure()
    return store


@pytest.fixture
def session() -> str:
    return ids.new_session_id("main")


async def put_all(log: LatentLog, session: str, indices: range, origin: int = 0) -> None:
    for index in indices:
        await log.put(TENANT, latents(session, index, origin), WINDOW)


async def past(log: LatentLog, session: str) -> list[int]:
    return [one.index for one in await log.past(TENANT, session, WINDOW)]


windows = st.builds(Window, recent=st.integers(1, 6), sinks=st.integers(0, 3))


@given(windows, st.integers(0, 9), st.integers(0, 40))
def test_the_places_hold_just_what_a_picture_is_rebuilt_from(window: Window, origin: int, made: int) -> None:
    places: dict[int, Latents] = {}
    for index in range(origin, origin + made + 1):
        place = window.place(index, origin)
        assert 0 <= place < window.places
        places[place] = latents("", index, origin)
        found = [one.index for one in newest_past(places.values(), window)]
        assert found == window.wanted(index, origin)
        recent = range(max(origin, index + 1 - window.recent), index + 1)
        assert set(found) == {*recent, *range(origin, min(origin + window.sinks, index + 1))}
        assert found == sorted(set(found))


@given(windows, st.integers(0, 40), st.data())
def test_a_window_with_a_hole_is_none(window: Window, newest: int, data: st.DataObject) -> None:
    wanted = window.wanted(newest, 0)
    hole = data.draw(st.sampled_from(wanted))
    found = newest_past([latents("", index) for index in wanted if index != hole], window)
    assert found == [] or found[-1].index < newest  # the newest alone missing: an older whole may remain
    other = [latents("", index, origin=-1 if index == hole else 0) for index in wanted]
    assert len(newest_past(other, window)) < len(wanted) or len(wanted) == 1


async def test_what_was_put_comes_back_oldest_first(log: LatentLog, session: str) -> None:
    assert await past(log, session) == []
    await put_all(log, session, range(2))
    assert await log.past(TENANT, session, WINDOW) == [latents(session, 0), latents(session, 1)]
    await put_all(log, session, range(2, 11))
    assert await past(log, session) == [0, 8, 9, 10]


async def test_a_session_takes_the_room_of_its_window(log: LatentLog, bus: Bus, session: str) -> None:
    await put_all(log, session, range(40))
    info = await bus.client.jetstream().stream_info("TS_main_LATENTS")
    assert info.state.messages == WINDOW.places


async def test_a_picture_begun_anew_replaces_the_former(log: LatentLog, session: str) -> None:
    await put_all(log, session, range(8))
    await put_all(log, session, range(8, 10), origin=8)
    assert await past(log, session) == [8, 9]


async def test_sessions_and_tenants_are_apart_and_forgotten_apart(log: LatentLog, session: str) -> None:
    other = ids.new_session_id("main")
    await put_all(log, session, range(2))
    await put_all(log, other, range(4))
    await log.put("another", latents(session, 7, origin=7), WINDOW)
    await log.forget(TENANT, session)
    assert (await past(log, session), await past(log, other)) == ([], [0, 1, 2, 3])
    assert [one.index for one in await log.past("another", session, WINDOW)] == [7]
    await log.forget(TENANT, session)


async def test_the_oldest_goes_when_the_store_is_full_but_not_a_renewed_beginning(bus: Bus) -> None:
    log = LatentLog(bus, "full", LatentSettings(max_bytes=40_000), timeout_s=WAIT_S)
    await log.ensure()
    playing, others = ids.new_session_id("full"), [ids.new_session_id("full") for _ in range(30)]
    for index, other in enumerate(others):
        await log.put(TENANT, latents(playing, index, data=bytes(1_000)), WINDOW)
        await log.put(TENANT, latents(other, 0, data=bytes(1_000)), WINDOW)
        await log.renew(TENANT, playing, 0, WINDOW)
    assert await past(log, playing) == [0, 27, 28, 29]
    assert await past(log, others[0]) == []
    assert await past(log, others[-1]) == [0]
    await log.renew(TENANT, playing, 5, WINDOW)  # of another picture: left alone
    await bus.client.jetstream().delete_stream("TS_full_LATENTS")


async def test_bytes_that_are_no_latents_are_a_hole(log: LatentLog, bus: Bus, session: str) -> None:
    await put_all(log, session, range(6))
    address = LATENTS.at(cell="main", tenant=TENANT, session=session, place="0")
    await bus.client.jetstream().publish(address.subject, b"garbage")
    assert await past(log, session) == []


async def test_too_large_for_nats_is_said(log: LatentLog, session: str) -> None:
    with pytest.raises(LatentsTooLarge, match="more than NATS takes"):
        await log.put(TENANT, latents(session, 0, data=bytes(9 * 1024 * 1024)), WINDOW)


async def test_a_restart_of_nats_keeps_it_and_its_absence_is_said(
    fresh_nats: NatsServer, session: str
) -> None:
    first = Bus(fresh_nats.url, "test-1")
    await first.connect(WAIT_S)
    log = LatentLog(first, "main", timeout_s=WAIT_S)
    with pytest.raises(BusAway, match="created again"):
        await log.put(TENANT, latents(session, 0), WINDOW)
    await put_all(log, session, range(6))
    fresh_nats.kill()
    with pytest.raises(BusAway, match="store of latents"):
        await LatentLog(first, "main", timeout_s=0.5).past(TENANT, session, WINDOW)
    await first.close()
    fresh_nats.start()
    second = Bus(fresh_nats.url, "test-2")
    await second.connect(WAIT_S)
    assert await past(LatentLog(second, "main", timeout_s=WAIT_S), session) == [0, 3, 4, 5]
    await second.close()
