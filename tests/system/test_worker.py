"""One worker, alone on a real bus, driven by a hand-written placement and viewer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.bus import Refused
from shared.contracts.subjects import CHECK_PROMPT
from tests.fixtures.process import Program
from tests.fixtures.worker_wire import CELL, Wire, new_own, next_own, steered, worker_program

WORKER = "w-1"


@pytest.fixture
def worker(nats_url: str, tmp_path: Path) -> Iterator[Program]:
    program = worker_program(nats_url, tmp_path, WORKER, capacity="3", slots="4")
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def wire(nats_url: str, worker: Program) -> AsyncIterator[Wire]:
    async with Wire(nats_url) as wire:
        await wire.until_state(WORKER)
        yield wire


async def test_plays_as_far_as_credit_goes_and_shows_a_new_prompt(wire: Wire) -> None:
    own = new_own("a red ball")
    assert (await wire.own(WORKER, own)).from_chunk == 0
    await wire.until_copy(WORKER, own.session, next_chunk=2)

    await wire.grant(own.session, 1)
    await wire.until_copy(WORKER, own.session, next_chunk=4, granted_through=1)
    assert (await wire.own(WORKER, (later := steered(own, "a blue ball")))).from_chunk == 4

    await wire.grant(own.session, 3)
    await wire.until_chunk(own.session, 5)
    chunks = await wire.chunks(own.session)
    assert [c.index for c in chunks] == [0, 1, 2, 3, 4, 5]
    assert [c.inputs_version for c in chunks] == [1, 1, 1, 1, 2, 2]
    assert chunks[4].inputs == later.inputs
    assert [r.index for r in wire.ready[own.session]] == [0, 1, 2, 3, 4, 5]
