"""The chunk log on a real JetStream: one chunk per index whoever writes, and readers find what is held."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import nats
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import ids
from shared.bus import Bus, BusAway
from shared.chunk_log import MAX_CHUNK_BYTES, ChunkLog, ChunkTooLarge, LogConflict, LogSettings
from shared.contracts.stream import Chunk, ChunkTimings
from shared.contracts.subjects import CHUNKS
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.waiting import WAIT_S

TENANT = "default"


def chunk(session: str, index: int, media: bytes = b"\x00\x00\x00\x01", worker: str = "worker-1") -> Chunk:
    return Chunk(
        session=session,
        index=index,
        epoch=1,
        worker=worker,
        frames=12,
        fps=12.0,
        width=160,
        height=96,
        codec="avc1.42c00b",
        media=media,
        inputs_version=1,
        inputs=[],
        rung="",
        timings=ChunkTimings(),
    )


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    connected = Bus(nats_url, "test-1")
    await connected.connect(WAIT_S)
    yield connected
    await connected.close()


@pytest.fixture
async def log(bus: Bus) -> ChunkLog:
    chunks = ChunkLog(bus, "main")
    await chunks.ensure()
    return chunks


@pytest.fixture
def session() -> str:
    return ids.new_session_id("main")


async def appended(log: ChunkLog, session: str, indices: range) -> int:
    """Appends chunks; the sequence of the last."""
    sequence = 0
    for index in indices:
        sequence = await log.append(TENANT, chunk(session, index), sequence)
    return sequence


async def held(log: ChunkLog, session: str) -> list[int]:
    """What a reader sees who goes through the log from its oldest chunk."""
    indices: list[int] = []
    entry = await log.next_from(TENANT, session, 1)
    while entry is not None:
        indices.append(entry.chunk.index)
        entry = await log.next_from(TENANT, session, entry.sequence + 1)
    return indices


async def test_chunks_are_read_as_they_were_written(log: ChunkLog, session: str) -> None:
    assert await log.last(TENANT, session) is None
    first = await log.append(TENANT, chunk(session, 0, b"zero"), 0)
    second = await log.append(TENANT, chunk(session, 1, b"one"), first)
    newest = await log.last(TENANT, session)
    assert newest == (second, chunk(session, 1, b"one"))
    assert await log.next_from(TENANT, session, 1) == (first, chunk(session, 0, b"zero"))
    assert await log.next_from(TENANT, session, second + 1) is None


async def test_of_two_owners_one_is_told_that_it_lost(log: ChunkLog, session: str) -> None:
    common = await appended(log, session, range(3))
    won = await log.append(TENANT, chunk(session, 3, worker="worker-1"), common)
    for after in (common, 0, won + 1):
        with pytest.raises(LogConflict, match="chunk 3"):
            await log.append(TENANT, chunk(session, 3, worker="worker-2"), after)
    newest = await log.last(TENANT, session)
    assert newest is not None
    assert newest.chunk.worker == "worker-1"
    assert await held(log, session) == [0, 1, 2, 3]


async def test_sessions_and_tenants_are_apart(log: ChunkLog, session: str) -> None:
    other = ids.new_session_id("main")
    await appended(log, session, range(2))
    await appended(log, other, range(5, 7))
    await log.append("another", chunk(session, 9), 0)
    assert (await held(log, session), await held(log, other)) == ([0, 1], [5, 6])


class Append(NamedTuple):
    session: int
    skip: int


appends = st.lists(
    st.builds(Append, st.integers(0, 2), st.sampled_from([0, 0, 0, 1, 5])), min_size=1, max_size=24
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(appends, st.sampled_from([3, 64]), st.sampled_from([1_500, 1_000_000]))
async def test_find_agrees_with_reading_everything(
    bus: Bus, made: list[Append], max_chunks: int, max_bytes: int
) -> None:
    """Sessions interleave, indices may jump (a worker began anew), both limits evict old chunks."""
    cell = f"c{ids.new_instance_id('x')}"
    log = ChunkLog(bus, cell, LogSettings(max_bytes=max_bytes, max_chunks_per_session=max_chunks))
    await log.ensure()
    sessions = [ids.new_session_id(cell) for _ in range(3)]
    written: list[list[int]] = [[], [], []]
    last = [0, 0, 0]
    for which, skip in made:
        index = (written[which][-1] if written[which] else -1) + 1 + skip
        newest = await log.last(TENANT, sessions[which])
        after = newest.sequence if newest else 0
        assert after in (0, last[which])
        last[which] = await log.append(TENANT, chunk(sessions[which], index), after)
        written[which].append(index)
    for session, indices in zip(sessions, written, strict=True):
        there = await held(log, session)
        assert there == indices[len(indices) - len(there) :]
        assert len(there) <= max_chunks
        for wanted in range((indices[-1] if indices else 0) + 2):
            found = await log.find(TENANT, session, wanted)
            expected = next((index for index in there if index >= wanted), None)
            assert (found.chunk.index if found else None) == expected
    await bus.client.jetstream().delete_stream(f"TS_{cell}_CHUNKS")


async def test_forget_removes_one_session(log: ChunkLog, session: str) -> None:
    other = ids.new_session_id("main")
    for each in (session, other):
        await appended(log, each, range(3))
    await log.forget(TENANT, session)
    await log.forget(TENANT, session)
    assert (await held(log, session), await held(log, other)) == ([], [0, 1, 2])
    assert await log.last(TENANT, session) is None


async def test_a_lost_log_is_made_anew_by_whoever_needs_it(bus: Bus, log: ChunkLog, session: str) -> None:
    after = await appended(log, session, range(3))
    await bus.client.jetstream().delete_stream("TS_main_CHUNKS")
    with pytest.raises(BusAway, match="created again"):
        await log.append(TENANT, chunk(session, 3), after)
    with pytest.raises(LogConflict):
        await log.append(TENANT, chunk(session, 3), after)
    assert await log.last(TENANT, session) is None
    await log.append(TENANT, chunk(session, 3), 0)
    assert await held(log, session) == [3]

    await bus.client.jetstream().delete_stream("TS_main_CHUNKS")
    assert await log.find(TENANT, session, 0) is None
    await log.append(TENANT, chunk(session, 4), 0)


async def test_the_log_outlives_neither_nats_nor_its_return(fresh_nats: NatsServer, session: str) -> None:
    bus = Bus(fresh_nats.url, "test-1")
    await bus.connect(WAIT_S)
    log, hasty = ChunkLog(bus, "main", timeout_s=WAIT_S), ChunkLog(bus, "main", timeout_s=0.3)
    await log.ensure()
    await appended(log, session, range(2))
    fresh_nats.kill()
    with pytest.raises(BusAway):
        await hasty.append(TENANT, chunk(session, 2), 2)
    for reading in (
        hasty.last(TENANT, session),
        hasty.find(TENANT, session, 0),
        hasty.forget(TENANT, session),
    ):
        with pytest.raises(BusAway):
            await reading
    with pytest.raises(BusAway):
        await hasty.ensure()
    fresh_nats.start()
    await bus.client.flush(timeout=int(WAIT_S))
    await log.ensure()
    assert await log.last(TENANT, session) is None
    await appended(log, session, range(2, 4))
    assert await held(log, session) == [2, 3]
    await bus.close()


async def test_limits_of_a_running_fleet_win(bus: Bus, log: ChunkLog, session: str) -> None:
    await ChunkLog(bus, "main", LogSettings(max_chunks_per_session=1)).ensure()
    await appended(log, session, range(3))
    assert await held(log, session) == [0, 1, 2]


async def test_a_chunk_too_large_is_said_to_be(log: ChunkLog, session: str) -> None:
    with pytest.raises(ChunkTooLarge, match="chunk 0"):
        await log.append(TENANT, chunk(session, 0, bytes(MAX_CHUNK_BYTES)), 0)
    assert await log.last(TENANT, session) is None


async def test_what_is_no_chunk_is_removed_and_stops_nobody(
    nats_url: str, log: ChunkLog, session: str
) -> None:
    after = await appended(log, session, range(2))
    subject = CHUNKS.at(cell="main", tenant=TENANT, session=session).subject
    async with await nats.connect(nats_url) as raw:
        for garbage in (b"garbage", b""):
            await raw.jetstream().publish(subject, garbage)
    newest = await log.last(TENANT, session)
    assert newest is not None
    assert (newest.sequence, newest.chunk.index) == (after, 1)
    await log.append(TENANT, chunk(session, 2), after)
    assert await held(log, session) == [0, 1, 2]
