"""What is lost on one worker goes on with the same picture on another, rebuilt from the cold tier.

The tiny model's latents are all that its state is made of, so that its picture goes on bit for bit.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from shared.contracts.fleet import Own
from shared.latent_log import LatentLog, Window
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.tiny_model import SPEC
from tests.fixtures.waiting import WAIT_S, until
from tests.fixtures.worker_wire import CELL, TENANT, Wire, new_own, next_own, steered, worker_program

WINDOW = Window(SPEC.recent_chunks, SPEC.sink_chunks)
FIRST, SECOND = "a red zorp", "a blue ball"
BEFORE, AFTER = 7, 4  # chunks made before and after the loss

StartWorker = Callable[..., Program]


@pytest.fixture
def start_worker(nats_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    programs: list[Program] = []

    def start(worker: str, **settings: str) -> Program:
        options = {"capacity": "2", "slots": "2", "host_pool_gib": "0"} | settings
        program = worker_program(nats_url, tmp_path, worker, **options)
        programs.append(program)
        program.start(lambda: True)
        return program

    yield start
    for program in programs:
        program.kill()


@pytest.fixture
async def wire(nats_url: str) -> AsyncIterator[Wire]:
    async with Wire(nats_url) as wire:
        yield wire


async def play(wire: Wire, worker: str, own: Own, chunks: int) -> Own:
    """So many chunks are in the log; the prompt has changed with the fourth."""
    await wire.own(worker, own)
    await wire.grant(own.session, 1)
    await wire.until_chunk(own.session, 3)
    own = steered(own, SECOND)
    await wire.own(worker, own)
    await wire.grant(own.session, chunks - 3)
    await wire.until_chunk(own.session, chunks - 1)
    return own


async def until_kept(wire: Wire, own: Own, index: int) -> None:
    """The store has the chunk; it comes there right after the log."""
    store = LatentLog(wire.bus, CELL, timeout_s=WAIT_S)

    async def newest() -> int:
        found = await store.past(TENANT, own.session, WINDOW)
        return found[-1].index if found else -1

    async with asyncio.timeout(WAIT_S):
        while await newest() < index:
            await asyncio.sleep(0.02)


async def reference(wire: Wire, worker: str) -> list[bytes]:
    """The same session, played through."""
    own = await play(wire, worker, new_own(FIRST), BEFORE + AFTER)
    await wire.drop(worker, own.session)
    return [chunk.media for chunk in await wire.chunks(own.session)]


async def test_a_killed_worker_s_session_goes_on_with_its_picture(
    wire: Wire, start_worker: StartWorker
) -> None:
    mortal, second = start_worker("w-mortal"), start_worker("w-2")
    for worker in ("w-mortal", "w-2"):
        await wire.until_state(worker)
    expected = await reference(wire, "w-2")
    own = await play(wire, "w-mortal", new_own(FIRST), BEFORE)
    await until_kept(wire, own, BEFORE - 1)
    mortal.kill()
    own = next_own(own, epoch=2, granted_through=BEFORE + AFTER - 3)
    assert (await wire.own("w-2", own)).next_chunk == BEFORE
    await wire.until_chunk(own.session, BEFORE + AFTER - 1)
    made = await wire.chunks(own.session)
    assert [chunk.worker for chunk in made] == ["w-mortal"] * BEFORE + ["w-2"] * AFTER
    assert [chunk.media for chunk in made] == expected
    assert f"rebuilt from the latents of {WINDOW.places} chunks" in second.output()


async def test_without_the_cold_tier_the_picture_begins_anew(wire: Wire, start_worker: StartWorker) -> None:
    mortal, _ = start_worker("w-mortal"), start_worker("w-off", cold_tier="off")
    for worker in ("w-mortal", "w-off"):
        await wire.until_state(worker)
    own = await play(wire, "w-mortal", new_own(FIRST), BEFORE)
    await until_kept(wire, own, BEFORE - 1)
    mortal.kill()
    await wire.own("w-off", next_own(own, epoch=2, granted_through=BEFORE - 2))
    await wire.until_chunk(own.session, BEFORE)
    frames = [chunk.frames for chunk in await wire.chunks(own.session)]
    assert frames[BEFORE - 1 : BEFORE + 1] == [SPEC.chunk_frames, SPEC.first_chunk_frames]
    await wire.grant(own.session, BEFORE)
    await wire.until_chunk(own.session, BEFORE + 2)
    kept = await LatentLog(wire.bus, CELL, timeout_s=WAIT_S).past(TENANT, own.session, WINDOW)
    assert kept[-1].index == BEFORE - 1  # it writes nothing either


async def test_a_paused_session_that_lost_its_slot_goes_on_with_its_picture(
    wire: Wire, start_worker: StartWorker
) -> None:
    worker = start_worker("w-1", capacity="1", slots="1")
    await wire.until_state("w-1")
    expected = await reference(wire, "w-1")
    own = await play(wire, "w-1", new_own(FIRST), BEFORE)
    own = next_own(own, paused=True)
    await wire.own("w-1", own)
    other = new_own(granted_through=0)
    await wire.own("w-1", other)
    await wire.until_chunk(other.session, 1)
    await wire.until(lambda: wire.copy("w-1", own.session) is None)
    await wire.drop("w-1", other.session)
    own = next_own(own, paused=False, epoch=2, granted_through=BEFORE + AFTER - 3)
    await wire.own("w-1", own)
    await wire.until_chunk(own.session, BEFORE + AFTER - 1)
    assert [chunk.media for chunk in await wire.chunks(own.session)] == expected
    assert "rebuilt from the latents" in worker.output()


async def test_without_the_store_sessions_play_and_begin_anew(
    wire: Wire, start_worker: StartWorker, nats_server: NatsServer
) -> None:
    """The stream is taken away and something else has its subjects."""
    await wire.bus.client.jetstream().add_stream(name="OTHER", subjects=["ts.main.latents.*.*.1"])
    mortal, second = start_worker("w-mortal"), start_worker("w-2")
    for worker in ("w-mortal", "w-2"):
        await wire.until_state(worker)
    own = await play(wire, "w-mortal", new_own(FIRST), BEFORE)
    said = "not kept for the cold tier"
    await until(lambda: said in mortal.output(), "a word on the missing store")
    mortal.kill()
    await wire.own("w-2", next_own(own, epoch=2, granted_through=BEFORE - 2))
    await wire.until_chunk(own.session, BEFORE)
    assert (await wire.chunks(own.session))[BEFORE].frames == SPEC.first_chunk_frames
    assert "beginning anew" in second.output()
    assert mortal.output().count(said) == 1
