"""What a worker does when it isn't alone, or when the bus leaves it alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import Refused
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.waiting import until
from tests.fixtures.worker_wire import Wire, new_own, next_own, worker_program

WORKERS = ("w-1", "w-2")


@pytest.fixture
def workers(fresh_nats: NatsServer, tmp_path: Path) -> Iterator[list[Program]]:
    programs = [worker_program(fresh_nats.url, tmp_path, name) for name in WORKERS]
    for program in programs:
        program.start(lambda: True)
    yield programs
    for program in programs:
        program.kill()


async def test_of_two_owners_the_later_wins_and_the_log_has_each_chunk_once(
    fresh_nats: NatsServer, workers: list[Program]
) -> None:
    async with Wire(fresh_nats.url) as wire:
        for name in WORKERS:
            await wire.until_state(name)
        old = new_own()
        await wire.own("w-1", old)
        await wire.until_copy("w-1", old.session, next_chunk=2)
        new = next_own(old, epoch=2)
        assert (await wire.own("w-2", new)).from_chunk == 2

        # Credit by command reaches one worker only. The zombie is quicker: the owner goes on behind it.
        await wire.own("w-1", next_own(old, granted_through=0))
        await wire.until_chunk(old.session, 2)
        await wire.own("w-2", next_own(new, granted_through=1))
        await wire.until_copy("w-2", old.session, next_chunk=4)

        # The zombie comes too late, and knows by that.
        await wire.own("w-1", next_own(next_own(old), granted_through=1))
        await wire.until_copy("w-1", old.session, state="superseded")
        with pytest.raises(Refused, match="another owner"):
            await wire.own("w-1", next_own(next_own(next_own(old))))

        await wire.grant(old.session, 2)
        await wire.until_chunk(old.session, 4)
        made = [(c.index, c.epoch, c.worker) for c in await wire.chunks(old.session)]
        zombies = [(index, 1, "w-1") for index in range(3)]
        assert made == [*zombies, (3, 2, "w-2"), (4, 2, "w-2")]


async def test_a_session_that_comes_back_goes_on_behind_what_others_made(
    fresh_nats: NatsServer, workers: list[Program]
) -> None:
    async with Wire(fresh_nats.url) as wire:
        for name in WORKERS:
            await wire.until_state(name)
        own = new_own()
        await wire.own("w-1", own)
        await wire.until_copy("w-1", own.session, next_chunk=2)
        same = next_own(own, epoch=2, granted_through=0)
        assert (await wire.own("w-1", same)).from_chunk == 0  # the copy went on, showing these inputs from 0
        await wire.until_copy("w-1", own.session, next_chunk=3)

        await wire.own("w-2", away := next_own(same, epoch=3, granted_through=2))
        await wire.until_copy("w-2", own.session, next_chunk=5)
        back = next_own(away, epoch=4, granted_through=3)
        assert (await wire.own("w-1", back)).from_chunk == 5
        await wire.until_copy("w-1", own.session, next_chunk=6)
        made = [(c.index, c.epoch, c.frames) for c in await wire.chunks(own.session)]
        assert made == [(0, 1, 9), (1, 1, 12), (2, 2, 12), (3, 3, 12), (4, 3, 12), (5, 4, 12)]


async def test_bus_killed_in_mid_stream_heals_by_itself(
    fresh_nats: NatsServer, workers: list[Program]
) -> None:
    async with Wire(fresh_nats.url) as wire:
        await wire.until_state("w-1")
        own = new_own("slow", granted_through=20)
        await wire.own("w-1", own)
        await wire.until_chunk(own.session, 3)
        fresh_nats.kill()
        await until(lambda: not wire.bus.connected_s, "the loss of NATS")
        lost = max(r.index for r in wire.ready[own.session])  # what it still said is heard by now
        fresh_nats.start()
        await wire.until_copy("w-1", own.session, next_chunk=23)
        indices = [c.index for c in await wire.chunks(own.session)]
        # The log is in memory and began anew, no earlier than where it ended.
        assert indices == list(range(indices[0], 23))
        assert lost <= indices[0] <= lost + 3
        heard = [r.index for r in wire.ready[own.session]]
        assert heard == sorted(set(heard))
