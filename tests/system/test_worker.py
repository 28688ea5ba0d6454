"""One worker, alone on a real bus, driven by a hand-written placement and viewer."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shared import codec
from shared.bus import ERROR_HEADER, Refused
from shared.contracts.fleet import CheckPrompt, Drain, Own
from shared.contracts.session import Refusal
from shared.contracts.stream import Chunk
from shared.contracts.subjects import CHECK_PROMPT, DRAIN, DROP, OWN, VIEWERS
from shared.ids import new_session_id
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.tiny_model import SPEC as TINY
from tests.fixtures.waiting import WAIT_S
from tests.fixtures.worker_wire import (
    CELL,
    TENANT,
    WORKER_COMMAND,
    Wire,
    new_own,
    next_own,
    steered,
    worker_environment,
    worker_program,
)

WORKER, MORTAL = "w-1", "w-mortal"


@pytest.fixture(scope="module")
def worker(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One for all tests here; those that end one have their own."""
    folder = tmp_path_factory.mktemp("worker")
    program = worker_program(nats_server.url, folder, WORKER, capacity="3", slots="3", host_pool_gib="0")
    program.start(lambda: True)
    yield program
    program.kill()


@pytest.fixture
async def wire(nats_server: NatsServer, worker: Program) -> AsyncIterator[Wire]:
    async with Wire(nats_server.url) as wire:
        await wire.until_state(WORKER)
        yield wire
        await wire.drop_all(WORKER)


@pytest.fixture
def mortal(nats_server: NatsServer, tmp_path: Path) -> Iterator[Program]:
    """A worker for one test, to be ended by it."""
    program = worker_program(nats_server.url, tmp_path, MORTAL)
    program.start(lambda: True)
    yield program
    program.kill()


async def test_plays_as_far_as_credit_goes_and_shows_a_new_prompt(wire: Wire) -> None:
    own = new_own("a red ball")
    assert (await wire.own(WORKER, own)).from_chunk == 0
    await wire.until_copy(WORKER, own.session, next_chunk=2)

    await wire.grant(own.session, 1)
    await wire.until_copy(WORKER, own.session, next_chunk=4, granted_through=1)
    later = steered(own, "a blue ball")
    assert (await wire.own(WORKER, later)).from_chunk == 4
    assert (await wire.own(WORKER, later)).from_chunk == 4

    await wire.grant(own.session, 3)
    await wire.until_chunk(own.session, 5)
    chunks = await wire.chunks(own.session)
    assert [c.index for c in chunks] == [0, 1, 2, 3, 4, 5]
    assert [c.inputs_version for c in chunks] == [1, 1, 1, 1, 2, 2]
    assert chunks[4].inputs == later.inputs
    assert [r.index for r in wire.ready[own.session]] == [0, 1, 2, 3, 4, 5]
    assert [c.frames for c in chunks] == [9, 12, 12, 12, 12, 12]
    assert _redness(chunks[3]) > 100 > -100 > _redness(chunks[4])


async def test_a_paused_copy_stays_and_makes_nothing(wire: Wire) -> None:
    own = new_own()
    await wire.own(WORKER, own)
    await wire.until_copy(WORKER, own.session, next_chunk=2)
    paused = next_own(own, paused=True)
    await wire.own(WORKER, paused)
    await wire.until_copy(WORKER, own.session, state="paused")
    other = new_own()
    await wire.grant(own.session, 9)
    await wire.own(WORKER, other)
    await wire.until_copy(WORKER, other.session, next_chunk=2)
    copy = wire.copy(WORKER, own.session)
    assert copy is not None
    assert (copy.next_chunk, copy.granted_through) == (2, 9)

    await wire.own(WORKER, next_own(paused, paused=False))
    await wire.until_copy(WORKER, own.session, state="running", next_chunk=12)


async def test_a_rung_changes_at_the_next_chunk_begun(wire: Wire) -> None:
    own = new_own()
    await wire.own(WORKER, own)
    await wire.until_copy(WORKER, own.session, next_chunk=2)
    await wire.own(WORKER, faster := next_own(own, rung="tiny-fast", granted_through=1))
    await wire.until_copy(WORKER, own.session, next_chunk=4)
    with pytest.raises(Refused, match="no rung 'golden'"):
        await wire.own(WORKER, next_own(faster, rung="golden"))
    await wire.own(WORKER, next_own(faster, rung="", granted_through=2))
    await wire.until_copy(WORKER, own.session, next_chunk=5)
    rungs = [chunk.rung for chunk in await wire.chunks(own.session)]
    assert rungs == ["tiny-default"] * 2 + ["tiny-fast"] * 2 + ["tiny-default"]


async def test_a_paused_session_leaves_the_device_for_another_and_comes_back_as_it_was(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """One copy on the device, two more in host memory; the longest unused goes when those are full too."""
    pool_gib = str(3.5 * TINY.state_bytes / 2**30)
    program = worker_program(nats_server.url, tmp_path, MORTAL, slots="1", host_pool_gib=pool_gib)
    program.start(lambda: True)
    try:
        async with Wire(nats_server.url) as wire:
            report = await wire.until_state(MORTAL)
            assert (report.capacity, report.slots) == (1, 3)
            owns = [new_own() for _ in range(4)]
            for own in owns[:3]:
                await _play_and_pause(wire, own)
            assert all(wire.copy(MORTAL, own.session) for own in owns[:3])
            await wire.own(MORTAL, next_own(owns[0], revision=3, granted_through=1))
            await wire.until_copy(MORTAL, owns[0].session, state="running", next_chunk=4)
            frames = [chunk.frames for chunk in await wire.chunks(owns[0].session)]
            assert frames == [9, 12, 12, 12], "its picture went on"
            await wire.own(MORTAL, next_own(owns[0], revision=4, paused=True))
            await _play_and_pause(wire, owns[3])
            kept = [wire.copy(MORTAL, own.session) is not None for own in owns]
            assert kept == [True, False, True, True]
    finally:
        program.kill()


async def test_stops_after_max_chunks(wire: Wire) -> None:
    own = new_own(max_chunks=3, granted_through=9)
    await wire.own(WORKER, own)
    copy = await wire.until_copy(WORKER, own.session, state="finished")
    assert copy.next_chunk == 3


async def test_goes_on_where_the_log_ends_whatever_it_is_told(wire: Wire) -> None:
    own = new_own()
    await wire.own(WORKER, own)
    await wire.until_copy(WORKER, own.session, next_chunk=2)
    assert (await wire.drop(WORKER, own.session)).held
    assert not (await wire.drop(WORKER, own.session)).held
    again = next_own(own, epoch=2, start_chunk=40, granted_through=1)
    assert (await wire.own(WORKER, again)).next_chunk in {2, 3, 4}
    await wire.until_copy(WORKER, own.session, next_chunk=4)
    assert [(c.index, c.epoch) for c in await wire.chunks(own.session)] == [(0, 1), (1, 1), (2, 2), (3, 2)]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"deadline_at": 1.0}, "too_late"),
        ({"model": "sprites"}, "wrong_model"),
        ({"rung": "golden"}, "unknown_rung"),
        ({"session": "main_nonsense"}, "bad_name"),
        ({"tenant": "a.b"}, "bad_name"),
    ],
)
async def test_refuses_what_it_cannot_do(wire: Wire, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        await wire.own(WORKER, new_own(**changes))
    assert refused.value.refusal.code == code


async def test_refuses_old_commands_and_a_fourth_active_session_but_evicts_a_paused_one(wire: Wire) -> None:
    owns = [new_own(revision=2) for _ in range(3)]
    for own in owns:
        await wire.own(WORKER, own)
    with pytest.raises(Refused, match="slots"):
        await wire.own(WORKER, new_own())
    with pytest.raises(Refused, match="revision 2"):
        await wire.own(WORKER, next_own(owns[0], revision=1))
    assert not (await wire.drop(WORKER, owns[0].session, epoch=0)).held

    await wire.own(WORKER, next_own(owns[1], paused=True))
    with pytest.raises(Refused, match="slots"):
        await wire.own(WORKER, new_own(paused=True))
    fourth = new_own()
    await wire.own(WORKER, fourth)
    await wire.until_copy(WORKER, fourth.session, next_chunk=2)
    assert wire.copy(WORKER, owns[1].session) is None


async def test_a_failing_session_fails_alone(wire: Wire) -> None:
    opened, good = new_own(), new_own()
    await wire.own(WORKER, opened)
    await wire.own(WORKER, good)
    await wire.until_copy(WORKER, opened.session, next_chunk=2)
    await wire.own(WORKER, bad := steered(opened, "explode"))
    await wire.grant(opened.session, 0)
    copy = await wire.until_copy(WORKER, bad.session, state="failed")
    assert copy.error == "RuntimeError: the prompt said so"
    await wire.until_copy(WORKER, good.session, next_chunk=2)
    with pytest.raises(Refused, match="the prompt said so"):
        await wire.own(WORKER, steered(bad, "a red ball"))
    await wire.own(WORKER, next_own(steered(bad, "a red ball"), epoch=2, granted_through=0))
    await wire.until_copy(WORKER, bad.session, state="running", next_chunk=3)


async def test_nonsense_on_its_subjects_is_answered_and_changes_nothing(wire: Wire) -> None:
    own = new_own()
    await wire.own(WORKER, own)
    client = wire.bus.client
    for subject in (
        OWN.at(cell=CELL, worker=WORKER).subject,
        DROP.at(cell=CELL, worker=WORKER).subject,
        DRAIN.at(cell=CELL, worker=WORKER).subject,
        CHECK_PROMPT.at(cell=CELL, model="tiny").subject,
    ):
        answer = await client.request(subject, b"\xff\x00 nonsense", timeout=WAIT_S)
        assert answer.headers is not None
        assert answer.headers[ERROR_HEADER] == "undecodable"
        assert codec.decode(Refusal, answer.data).code == "undecodable"
    await client.publish(VIEWERS.at(cell=CELL, tenant=TENANT, session=own.session).subject, b"\xc1")
    await wire.grant(own.session, 0)
    await wire.until_copy(WORKER, own.session, next_chunk=3)


async def test_knows_its_words(wire: Wire) -> None:
    request = CHECK_PROMPT.at(cell=CELL, model="tiny")
    checked = await wire.bus.request(request, CheckPrompt("a red xylophone"), timeout_s=WAIT_S)
    assert len(checked.warnings) == 1
    assert "xylophone" in checked.warnings[0]


async def test_drained_it_takes_no_session_and_ends_when_empty(
    nats_server: NatsServer, mortal: Program
) -> None:
    async with Wire(nats_server.url) as wire:
        await wire.until_state(MORTAL)
        own = new_own()
        await wire.own(MORTAL, own)
        drain = DRAIN.at(cell=CELL, worker=MORTAL)
        assert (await wire.bus.request(drain, Drain(time.time() + 60), timeout_s=WAIT_S)).copies == 1
        await wire.until_state(MORTAL, "draining")
        with pytest.raises(Refused, match="no further"):
            await wire.own(MORTAL, new_own())
        assert (await wire.own(MORTAL, steered(own, "a green ball"))).from_chunk >= 0
        await wire.drop(MORTAL, own.session)
        await wire.until_state(MORTAL, "stopped")
    assert await _exit_code(mortal) == 0


async def test_told_to_stop_it_finishes_the_chunk_in_hand(nats_server: NatsServer, mortal: Program) -> None:
    async with Wire(nats_server.url) as wire:
        await wire.until_state(MORTAL)
        own = new_own("slow", granted_through=1000)
        await wire.own(MORTAL, own)
        await wire.until_chunk(own.session, 2)
        assert mortal.stop() == 0
        stopped = await wire.until_state(MORTAL, "stopped")
        assert stopped.copies == []
        indices = [c.index for c in await wire.chunks(own.session)]
        assert indices == list(range(len(indices)))
        assert indices[-1] >= 3, "it was begun before chunk 2 reached the log"


HANGING = """
import threading
from services.worker import encoding
from tests.fixtures.tiny_model import load_model

encoding.ENCODE_LIMIT_S, encoding.MAX_FRAMES_WAITING = 0.1, 1
encoding.Encoding._made = lambda *_: threading.Event().wait()
"""


async def test_a_worker_that_fails_says_so_at_once(nats_server: NatsServer, tmp_path: Path) -> None:
    """It still waits for the chunk in hand then, for longer than anybody here waits for its word."""
    (tmp_path / "hanging.py").write_text(HANGING)
    env = worker_environment(nats_server.url, MORTAL, model_loader="hanging", drain_s="600")
    program = Program(WORKER_COMMAND, tmp_path / "worker.log", env=env | {"PYTHONPATH": str(tmp_path)})
    program.start(lambda: True)
    try:
        async with Wire(nats_server.url) as wire:
            await wire.until_state(MORTAL)
            await wire.own(MORTAL, new_own(granted_through=9))
            await wire.until_state(MORTAL, "stopped")
            assert program.running
    finally:
        program.kill()


async def test_another_session_id_is_not_heard(wire: Wire) -> None:
    own = new_own()
    await wire.own(WORKER, own)
    await wire.grant(new_session_id(CELL), 50)
    await wire.grant(own.session, 0)
    await wire.until_copy(WORKER, own.session, next_chunk=3, granted_through=0)


async def _exit_code(program: Program) -> int:
    async with asyncio.timeout(WAIT_S):
        while program.running:
            await asyncio.sleep(0.01)
    return program.stop()


async def _play_and_pause(wire: Wire, own: Own) -> None:
    await wire.own(MORTAL, own)
    await wire.until_copy(MORTAL, own.session, next_chunk=2)
    await wire.own(MORTAL, next_own(own, paused=True))
    await wire.until_copy(MORTAL, own.session, state="paused")


def _redness(chunk: Chunk) -> float:
    """Red less blue, on average over the chunk's frames."""
    decoder = av.CodecContext.create("h264", "r")
    packets = [*decoder.parse(chunk.media), *decoder.parse(None)]
    frames = [f for packet in [*packets, None] for f in decoder.decode(packet)]
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)
    return float(pixels[..., 0].mean() - pixels[..., 2].mean())
