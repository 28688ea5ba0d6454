"""Sessions that move between two workers, while the test plays placement and viewers."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import Refused
from shared.contracts.fleet import Own
from tests.fixtures.move_wire import MoveWire, new_move
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.worker_wire import new_own, next_own, steered, worker_program

PATIENT_S = "8"
HASTY_S = "0.5"


def start_pair(nats: NatsServer, folder: Path, **settings: str) -> dict[str, Program]:
    programs = {n: worker_program(nats.url, folder, n, slots="4", **settings) for n in ("w-1", "w-2")}
    for program in programs.values():
        program.start(lambda: True)
    return programs


@pytest.fixture
def pair(fresh_nats: NatsServer, tmp_path: Path) -> Iterator[dict[str, Program]]:
    programs = start_pair(fresh_nats, tmp_path, move_patience_s=PATIENT_S, move_checksums="true")
    yield programs
    for program in programs.values():
        program.kill()


async def playing(wire: MoveWire, own: Own, chunks: int = 3) -> None:
    for worker in ("w-1", "w-2"):
        await wire.until_state(worker)
    await wire.own("w-1", own)
    await wire.until_chunk(own.session, chunks - 1)


async def unmoved(wire: MoveWire, own: Own, worker: str, chunks: int) -> list[bytes]:
    """The same session, played where it was opened."""
    alone = new_own(own.inputs[-1].text, seed=own.seed, granted_through=chunks - 3)
    await wire.own(worker, alone)
    await wire.until_chunk(alone.session, chunks - 1)
    return [chunk.media for chunk in await wire.chunks(alone.session)]


async def test_a_session_moves_while_it_plays_and_nobody_sees_it(
    fresh_nats: NatsServer, pair: dict[str, Program]
) -> None:
    async with MoveWire(fresh_nats.url) as wire:
        own = new_own("a slow red ball")
        async with wire.viewer(own.session):
            await playing(wire, own)
            owned = await wire.moved(own, "w-1", "w-2")
            count = len(await wire.chunks(own.session)) + 3
            await wire.until_chunk(own.session, count - 1)
            back = await wire.moved(owned, "w-2", "w-1")
            count += 6
            await wire.until_chunk(own.session, count - 1)
        chunks = (await wire.chunks(own.session))[:count]
        assert [chunk.index for chunk in chunks] == list(range(count))
        epochs = [chunk.epoch for chunk in chunks]
        assert epochs == sorted(epochs)
        assert {(chunk.epoch, chunk.worker) for chunk in chunks} == {(1, "w-1"), (2, "w-2"), (3, "w-1")}
        assert [chunk.media for chunk in chunks] == await unmoved(wire, own, "w-1", count)
        assert wire.copy("w-2", own.session) is None
        assert (await wire.until_copy("w-1", own.session, epoch=3)).move_id == ""
        assert back.epoch == 3
