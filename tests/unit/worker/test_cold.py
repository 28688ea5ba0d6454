"""The cold tier as a worker uses it, on a real JetStream: nothing waits for it, and what it finds fits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest
import torch

from services.worker import cold, latents
from services.worker.cold import Cold
from services.worker.models.protocol import PastChunk
from shared.bus import Bus
from shared.contracts.fleet import Own
from shared.contracts.subjects import LATENTS
from shared.latent_log import LatentLog, Window
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.tiny_model import SPEC
from tests.fixtures.waiting import WAIT_S
from tests.fixtures.worker_wire import CELL, new_own

WINDOW = Window(SPEC.recent_chunks, SPEC.sink_chunks)


def chunk(index: int, origin: int = 0) -> PastChunk:
    return PastChunk(index, origin, f"prompt {index}", torch.full((2, 3), index, dtype=torch.bfloat16))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "SEEK_S", WAIT_S)


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Cold]:
    tier = Cold(LatentLog(bus, CELL, timeout_s=2.0), SPEC)
    task = asyncio.create_task(tier.run())
    try:
        yield tier
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=WAIT_S)


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    connected = Bus(nats_url, "test-1")
    await connected.connect(WAIT_S)
    yield connected
    await connected.close()


def places(past: tuple[PastChunk, ...]) -> list[tuple[int, int]]:
    return [(one.index, one.origin) for one in past]


@pytest.mark.parametrize(
    "array",
    [
        torch.randn(2, 3, 4, dtype=torch.bfloat16),
        torch.randn(4, 3, dtype=torch.float32).t(),
        np.arange(6, dtype=np.uint8).reshape(2, 3),
    ],
)
def test_arrays_come_back_as_they_were(array: object) -> None:
    message = latents.to_message(new_own(), PastChunk(4, 1, "a red ball", array))
    [back] = latents.to_past([message], next_chunk=5)
    assert (back.index, back.origin, back.prompt) == (4, 1, "a red ball")
    assert torch.equal(back.latents, torch.as_tensor(array))


def test_what_is_no_array_is_refused() -> None:
    message = latents.to_message(new_own(), chunk(0))
    for changes in ({"dtype": "load"}, {"shape": [9]}, {"data": b""}):
        with pytest.raises(ValueError, match=r".+"):
            latents.to_past([msgspec.structs.replace(message, **changes)], next_chunk=1)


async def test_what_was_kept_is_found_by_another_worker(bus: Bus) -> None:
    own = new_own()
    async with running(bus) as first, running(bus) as second:
        assert await first.past(own, 1) == ()
        for index in range(9):
            first.keep(own, chunk(index))
        assert places(await first.past(own, 9)) == [(0, 0), (6, 0), (7, 0), (8, 0)]
        found = await second.past(own, 9)
    assert [one.prompt for one in found] == ["prompt 0", "prompt 6", "prompt 7", "prompt 8"]
    assert torch.equal(found[-1].latents, chunk(8).latents)


async def test_a_chunk_or_two_may_be_lost_and_the_picture_s_indices_move_on(bus: Bus) -> None:
    own = new_own()
    async with running(bus) as tier:
        for index in range(9):
            tier.keep(own, chunk(index))
        for late, next_chunk in ((1, 10), (2, 11), (-2, 7)):
            found = await tier.past(own, next_chunk)
            assert places(found) == [(n + late, late) for n in (0, 6, 7, 8)]
        assert await tier.past(own, 12) == ()
        for one in (*await tier.past(own, 11), chunk(11, origin=2)):
            tier.keep(own, one)
        assert places(await tier.past(own, 12)) == [(2, 2), (9, 2), (10, 2), (11, 2)]


async def test_what_nobody_understands_begins_anew(bus: Bus) -> None:
    own = new_own()
    async with running(bus) as tier:
        tier.keep(own, chunk(0))
        assert len(await tier.past(own, 1)) == 1
        message = msgspec.structs.replace(latents.to_message(own, chunk(0)), dtype="float99")
        await LatentLog(bus, CELL).put(own.tenant, message, WINDOW)
        assert await tier.past(own, 1) == ()
        address = LATENTS.at(cell=CELL, tenant=own.tenant, session=own.session, place="0")
        await bus.client.jetstream().publish(address.subject, b"garbage")
        assert await tier.past(own, 1) == ()


async def test_whatever_goes_wrong_the_session_is_answered(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise LookupError("nobody thought of that")

    monkeypatch.setattr(LatentLog, "past", fail)
    async with running(bus) as tier:
        assert await tier.past(new_own(), 1) == ()


async def test_a_store_that_hangs_costs_a_bounded_wait_and_keeps_the_newest(
    fresh_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "_AGAIN_S", 0.01)
    bus = Bus(fresh_nats.url, "test-1")
    await bus.connect(WAIT_S)
    owns = [new_own() for _ in range(cold.MOST_WAITING + 10)]
    async with running(bus) as tier:
        tier.keep(owns[-1], chunk(0))
        assert len(await tier.past(owns[-1], 1)) == 1
        fresh_nats.freeze()
        try:
            for own in owns:
                tier.keep(own, chunk(0))
            for index in range(40):
                tier.keep(owns[-1], chunk(index))
            assert len(tier._waiting) == cold.MOST_WAITING
            monkeypatch.setattr(cold, "SEEK_S", 0.2)
            assert await tier.past(owns[-1], 40) == ()
        finally:
            fresh_nats.thaw()
        monkeypatch.setattr(cold, "SEEK_S", WAIT_S)
        assert places(await tier.past(owns[-1], 40)) == [(0, 0), (37, 0), (38, 0), (39, 0)]
        assert await tier.past(owns[0], 1) == ()  # was dropped for them
    await bus.close()


async def test_without_a_store_it_says_so_once(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    own: Own = new_own()
    async with running(bus) as tier:
        tier.keep(own, chunk(0))
        assert await tier.past(own, 1) != ()
        await bus.client.jetstream().delete_stream(f"TS_{CELL}_LATENTS")
        tier.keep(own, chunk(1))
        await tier.past(own, 2)
        assert [r.message for r in caplog.records if "not kept" in r.message] == [
            "not kept for the cold tier: store of latents: it was missing and has been created again"
        ]
        tier.keep(own, chunk(1))
        tier.keep(own, chunk(0))
        assert len(await tier.past(own, 2)) == 2
