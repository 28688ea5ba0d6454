"""Prompts encoded by a service of their own, on a real bus: asked directly, and by a worker whose model
reads embeddings.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.text.encoder import MAX_WORDS
from services.worker.models.wan.text import UMT5
from shared.bus import Bus
from shared.contracts.fleet import Own
from shared.contracts.subjects import ENCODE_TEXT
from shared.contracts.text import EncodeText, TextEncoded
from tests.fixtures import tiny_umt5, tiny_wan
from tests.fixtures.move_wire import MoveWire
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S
from tests.fixtures.worker_wire import CELL, Wire, new_own, steered, worker_program

pytestmark = pytest.mark.timeout(240)  # transformers alone takes seconds to import, twice here

WORKER, OTHER = "w-wan", "w-wan-2"
START_S = 100.0
DIM = tiny_wan.ARCH.text_dim
# A worker lets half of it pass while nobody encodes.
DEADLINE_S = 4.0


@pytest.fixture(scope="module")
def text(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Two layers, and the width of the real one."""
    folder = tmp_path_factory.mktemp("text")
    tiny_umt5.save_as_wan(tiny_umt5.make_model(dim=DIM), folder)
    options = {"nats-url": nats_server.url, "weights-path": folder}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    program = Program([sys.executable, "-m", "turboserve", "text", *arguments], folder / "text.log")
    start(program)
    yield program
    program.kill()


@pytest.fixture
def workers(nats_server: NatsServer, tmp_path: Path) -> Iterator[list[Program]]:
    """Two of the same model: a Wan with published weights, though a tiny one."""
    tiny_wan.save(tmp_path)
    programs = [start_worker(nats_server, tmp_path, name) for name in (WORKER, OTHER)]
    yield programs
    for program in programs:
        program.kill()


def start_worker(nats: NatsServer, folder: Path, name: str) -> Program:
    settings = tiny_wan.SETTINGS | {"weights_path": str(folder), "host_pool_gib": "0", "move_patience_s": "8"}
    program = worker_program(nats.url, folder, name, **settings)
    program.start(lambda: True)
    return program


def start(text: Program) -> None:
    before = _times_ready(text)
    text.start(lambda: _times_ready(text) > before, START_S)


def _times_ready(text: Program) -> int:
    return text.output().count(f"ready {UMT5} on cpu")


async def encode(bus: Bus, prompt: str) -> TextEncoded:
    asked = EncodeText(prompt, time.time() + WAIT_S)
    return await bus.request(ENCODE_TEXT.at(cell=CELL, encoder=UMT5), asked, WAIT_S)


async def test_the_longest_prompt_of_the_widest_encoder_fits_a_message(
    text: Program, nats_server: NatsServer
) -> None:
    async with Wire(nats_server.url) as wire:
        long = " ".join(["red"] * 1000)
        once, twice = await asyncio.gather(*(encode(wire.bus, long) for _ in range(2)))
        assert once == twice == await encode(wire.bus, f"  {long}\n")
        assert (once.words, once.dim, once.cut) == (MAX_WORDS, DIM, True)
        assert len(once.embedding) == 4 << 20
        assert (await encode(wire.bus, "a red ball")).words == 4
    assert text.output().count("encoded a prompt") == 2


def own_of(prompt: str) -> Own:
    return new_own(prompt, model=tiny_wan.SETTINGS["model"], deadline_at=time.time() + DEADLINE_S)


def brief(own: Own) -> Own:
    """With a deadline of now."""
    return msgspec.structs.replace(own, deadline_at=time.time() + DEADLINE_S)


async def test_while_the_encoder_is_away_sessions_go_on_or_wait_and_may_move(
    text: Program, workers: list[Program], nats_server: NatsServer
) -> None:
    """One has chunks, and goes on with the prompt that it shows, on another worker too; one has none yet."""
    async with MoveWire(nats_server.url) as wire:
        for name in (WORKER, OTHER):
            await wire.until(lambda name=name: _is_ready(wire, name), START_S)
        own = own_of("a red ball")
        async with wire.viewer(own.session):
            assert (await wire.own(WORKER, brief(own))).from_chunk == 0
            await wire.until_chunk(own.session, 1)
            blue = steered(own, "a blue cube")
            shown_from = (await wire.own(WORKER, brief(blue))).from_chunk
            await wire.until_chunk(own.session, shown_from + 1)

            assert text.stop() == 0
            later, waiting = brief(steered(blue, "a red cube over stripes")), own_of("a blue ball")
            assert (await wire.own(WORKER, later)).from_chunk > shown_from
            assert (await wire.own(WORKER, brief(waiting))).from_chunk == 0
            await wire.until_copy(WORKER, waiting.session, state="encoding", next_chunk=0)
            assert f"waits for the text encoder {UMT5}: nobody serves" in workers[0].output()
            await goes_on(wire, later)

            move = await wire.move(later, WORKER, OTHER)
            await wire.until_news(move, "arrived")
            await wire.commit(move, later, deadline_at=time.time() + DEADLINE_S)
            await wire.until_news(move, "gone")
            await goes_on(wire, later)
            made = await wire.chunks(own.session)
            assert (made[-1].worker, made[-1].inputs) == (OTHER, blue.inputs)
            assert [chunk.index for chunk in made] == list(range(made[0].index, made[-1].index + 1))
            assert all(chunk.inputs_version == 1 + (chunk.index >= shown_from) for chunk in made)

            start(text)
            await wire.until_chunk(waiting.session, 0)
            async with asyncio.timeout(WAIT_S):
                while (newest := (await wire.chunks(own.session))[-1]).inputs != later.inputs:
                    await wire.until_chunk(own.session, newest.index + 1)
            versions = [chunk.inputs_version for chunk in await wire.chunks(own.session)]
            assert (versions == sorted(versions), versions[-1]) == (True, 3)
            await wire.until_copy(WORKER, waiting.session, state="running")
    assert [worker.stop() for worker in workers] == [0, 0]


async def goes_on(wire: Wire, own: Own) -> None:
    """Chunks that were not even begun."""
    await wire.until_chunk(own.session, (await wire.chunks(own.session))[-1].index + 4)


def _is_ready(wire: Wire, worker: str) -> bool:
    return worker in wire.reports and wire.reports[worker].state == "ready"
