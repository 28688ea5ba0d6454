"""An operator's suspend and resume, as the worker that holds the session carries them out."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import Refused
from shared.contracts.fleet import Own
from shared.contracts.moves import Stow, Stowed
from shared.contracts.subjects import STOW
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.waiting import WAIT_S
from tests.fixtures.worker_wire import CELL, Wire, new_own, next_own, worker_program

WORKER = "w-stow"


@pytest.fixture
def worker(nats_server: NatsServer, tmp_path: Path) -> Iterator[Program]:
    program = worker_program(nats_server.url, tmp_path, WORKER, slots="2")
    program.start(lambda: True)
    yield program
    program.kill()


async def stow(wire: Wire, own: Own, tier: str, wait_s: float = WAIT_S) -> Stowed:
    request = Stow(own.session, own.epoch, tier, time.time() + wait_s)
    return await wire.bus.request(STOW.at(cell=CELL, worker=WORKER), request, wait_s + 5)


async def test_a_session_is_suspended_and_resumed_on_command(
    nats_server: NatsServer, worker: Program
) -> None:
    async with Wire(nats_server.url) as wire:
        await wire.until_state(WORKER)
        own = new_own()
        await wire.own(WORKER, own)
        await wire.until_copy(WORKER, own.session, next_chunk=2, tier="device")
        await wire.own(WORKER, paused := next_own(own, paused=True))
        stowed = await stow(wire, own, "host")
        assert (stowed.tier, all(phase.duration_s >= 0 for phase in stowed.phases)) == ("host", True)
        await wire.until_copy(WORKER, own.session, tier="host")
        assert (await stow(wire, own, "host")).tier == "host"
        assert (await stow(wire, own, "device")).tier == "device"
        await stow(wire, own, "host")
        await wire.own(WORKER, next_own(paused, paused=False, granted_through=1))
        await wire.until_chunk(own.session, 3)
        assert [chunk.frames for chunk in await wire.chunks(own.session)] == [9, 12, 12, 12]


async def test_what_can_not_be_stowed_is_refused_in_words(nats_server: NatsServer, worker: Program) -> None:
    async with Wire(nats_server.url) as wire:
        await wire.until_state(WORKER)
        own = new_own(paused=True)
        with pytest.raises(Refused, match="holds no copy"):
            await stow(wire, own, "host")
        await wire.own(WORKER, own)
        assert (await stow(wire, own, "host")).tier == "none"
        with pytest.raises(Refused, match="has epoch 1"):
            await stow(wire, next_own(own, epoch=2), "host")
        with pytest.raises(Refused, match="there is no tier 'cloud'"):
            await stow(wire, own, "cloud")
        with pytest.raises(Refused, match="deadline"):
            await stow(wire, own, "host", wait_s=-1)
