"""Sessions that move between two workers, while the test plays placement and viewers."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from shared.bus import Refused
from shared.contracts.fleet import Own
from shared.contracts.moves import compatibility_of
from shared.contracts.subjects import OPEN_LINK
from tests.fixtures.move_wire import MoveWire, new_move
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.worker_wire import CELL, new_own, next_own, steered, worker_program

WORKERS = ("w-1", "w-2")
PATIENT_S = "8"
HASTY_S = "1.5"


def start_pair(nats: NatsServer, folder: Path, **settings: str) -> dict[str, Program]:
    programs = {n: worker_program(nats.url, folder, n, slots="4", **settings) for n in WORKERS}
    for program in programs.values():
        program.start(lambda: True)
    return programs


@pytest.fixture(scope="module")
def lasting_pair(
    nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Program]]:
    """For tests after which both go on."""
    folder = tmp_path_factory.mktemp("pair")
    programs = start_pair(nats_server, folder, move_patience_s=PATIENT_S, move_checksums="true")
    yield programs
    for program in programs.values():
        program.kill()


@pytest.fixture
async def wire(nats_server: NatsServer, lasting_pair: dict[str, Program]) -> AsyncIterator[MoveWire]:
    """To the lasting pair, which holds nothing afterwards."""
    async with MoveWire(nats_server.url) as wire:
        yield wire
        await wire.drop_all(*lasting_pair)


@pytest.fixture
def pair(fresh_nats: NatsServer, tmp_path: Path) -> Iterator[dict[str, Program]]:
    programs = start_pair(fresh_nats, tmp_path, move_patience_s=PATIENT_S)
    yield programs
    for program in programs.values():
        program.kill()


@contextlib.contextmanager
def refused(code: str, words: str) -> Iterator[None]:
    with pytest.raises(Refused, match=words) as caught:
        yield
    assert caught.value.refusal.code == code


async def playing(wire: MoveWire, own: Own, chunks: int = 3) -> None:
    for worker in WORKERS:
        await wire.until_state(worker)
    await wire.own("w-1", own)
    await wire.until_chunk(own.session, chunks - 1)


def made_by_now(wire: MoveWire, own: Own) -> int:
    return 1 + max(ready.index for ready in wire.ready[own.session])


async def shows_what_an_unmoved_session_shows(wire: MoveWire, own: Own, worker: str) -> None:
    """The same session, played where it was opened, has the same frames: those that the log still has."""
    moved = {chunk.index: chunk.media for chunk in await wire.chunks(own.session)}
    alone = new_own(own.inputs[-1].text, model=own.model, seed=own.seed, granted_through=max(moved) - 2)
    await wire.own(worker, alone)
    await wire.until_chunk(alone.session, max(moved))
    stayed = {chunk.index: chunk.media for chunk in await wire.chunks(alone.session)}
    both = moved.keys() & stayed.keys()
    assert max(moved) in both
    assert [moved[index] for index in both] == [stayed[index] for index in both]


async def test_a_session_moves_while_it_plays_and_nobody_sees_it(wire: MoveWire) -> None:
    own = new_own("a slow red ball")
    async with wire.viewer(own.session):
        await playing(wire, own)
        owned = await wire.moved(own, "w-1", "w-2")
        count = made_by_now(wire, own) + 3
        await wire.until_chunk(own.session, count - 1)
        back = await wire.moved(owned, "w-2", "w-1")
        count = made_by_now(wire, own) + 3
        await wire.until_chunk(own.session, count - 1)
    made = sorted((ready.index, ready.epoch) for ready in wire.ready[own.session])[:count]
    assert [index for index, _ in made] == list(range(count))
    epochs = [epoch for _, epoch in made]
    assert (epochs, set(epochs)) == (sorted(epochs), {1, 2, 3})
    owners = {1: "w-1", 2: "w-2", 3: "w-1"}
    assert all(chunk.worker == owners[chunk.epoch] for chunk in await wire.chunks(own.session))
    await shows_what_an_unmoved_session_shows(wire, own, "w-1")
    await wire.until(lambda: wire.copy("w-2", own.session) is None)
    assert (await wire.until_copy("w-1", own.session, epoch=3)).move_id == ""
    assert back.epoch == 3


async def test_the_next_one_leaves_before_the_last_ones_first_chunk_elsewhere(wire: MoveWire) -> None:
    await playing(wire, first := new_own("a red ball"), 2)
    await playing(wire, second := new_own("a slow blue ball"), 2)
    move = await wire.move(first, "w-1", "w-2")
    await wire.until_news(move, "arrived")
    async with wire.viewer(second.session):
        await wire.grant(second.session, 0)
        await wire.moved(second, "w-1", "w-2")
    assert not [news for news in wire.news if news.move_id == move.move_id and news.state == "gone"]
    await wire.commit(move, first)
    await wire.grant(first.session, 1)
    await wire.until_news(move, "gone")
    for own in (first, second):
        await wire.until(lambda session=own.session: wire.copy("w-1", session) is None)


async def test_a_prompt_in_the_pause_of_a_move_waits_and_the_new_owner_shows_it(
    wire: MoveWire,
) -> None:
    await playing(wire, own := new_own("a red ball"), 2)
    move = await wire.move(own, "w-1", "w-2")
    await wire.until_news(move, "arrived")
    later = steered(own, "a blue ball")
    steering = asyncio.ensure_future(wire.own("w-1", later))
    copy = await wire.until_copy("w-2", own.session, move_id=move.move_id, next_chunk=2)
    assert (copy.epoch, copy.committed) == (2, False)
    await wire.commit(move, own)
    await wire.until_copy("w-2", own.session, committed=True)
    assert not steering.done()
    await wire.grant(own.session, 0)
    with pytest.raises(Refused, match="is on w-2") as refused:
        await steering
    assert refused.value.refusal.code == "moved"
    owned = await wire.own("w-2", steered(next_own(own, epoch=2), "a blue ball"))
    assert owned.from_chunk == 3
    await wire.grant(own.session, 1)
    await wire.until_chunk(own.session, 3)
    made = [(c.index, c.worker, c.inputs[-1].text) for c in await wire.chunks(own.session)]
    assert made == [
        (0, "w-1", "a red ball"),
        (1, "w-1", "a red ball"),
        (2, "w-2", "a red ball"),
        (3, "w-2", "a blue ball"),
    ]


async def test_a_paused_session_moves_and_goes_on_when_it_is_resumed(wire: MoveWire) -> None:
    await playing(wire, own := new_own("a slow red ball"), 2)
    move = await wire.move(own, "w-1", "w-2")
    await wire.own("w-1", paused := next_own(own, paused=True))
    await wire.until_news(move, "arrived")
    committed = await wire.commit(move, paused)
    copy = await wire.until_copy("w-2", own.session, state="paused", committed=True)
    assert (await wire.drop_at("w-1", own, copy.next_chunk)).held
    await wire.until(lambda: wire.copy("w-1", own.session) is None)
    await wire.own("w-2", next_own(committed, paused=False, granted_through=1))
    await wire.until_chunk(own.session, 3)
    chunks = await wire.chunks(own.session)
    assert [chunk.worker for chunk in chunks] == ["w-1", "w-1", "w-2", "w-2"]
    await shows_what_an_unmoved_session_shows(wire, own, "w-1")


async def test_one_that_is_resumed_elsewhere_shows_there_at_once_what_was_asked_meanwhile(
    wire: MoveWire,
) -> None:
    await playing(wire, own := new_own("a red ball"), 2)
    await wire.own("w-1", paused := next_own(own, paused=True, granted_through=0))
    await wire.until_copy("w-1", own.session, state="paused")
    resumed = msgspec.structs.replace(steered(paused, "a blue ball"), paused=False)
    await wire.reserve(move := new_move(paused, "w-1", "w-2"), resumed)
    await wire.move_out(move, waited_for=True)
    await wire.until_chunk(own.session, 2)
    made = [(c.index, c.worker, c.inputs[-1].text) for c in await wire.chunks(own.session)]
    assert made[-1] == (2, "w-2", "a blue ball"), "before its owner is told"
    owned = await wire.own("w-2", next_own(resumed, epoch=2, move_id=move.move_id))
    assert owned.from_chunk == 2


async def test_moves_that_can_not_be_are_refused_in_words(wire: MoveWire) -> None:
    await playing(wire, own := new_own(), 2)
    move = new_move(own, "w-1", "w-2")
    other = compatibility_of(wire.reports["w-1"].model)
    other = msgspec.structs.replace(other, weights_digest="abc")
    with refused("incompatible", "weights_digest is 'abc', this worker's 'none'"):
        await wire.reserve(move, own, compatibility=other)
    with refused("too_late", "deadline"):
        await wire.reserve(move, own, deadline_at=time.time() - 1)
    with refused("no_copy", "no copy"):
        await wire.move_out(new_move(new_own(), "w-1", "w-2"))
    with refused("stale", "has epoch 1"):
        await wire.move_out(new_move(next_own(own, epoch=4), "w-1", "w-2"))
    with refused("no_transport", r"this worker offers \['tcp'\]"):
        await wire.move_out(move, transports=["pigeon"])
    with refused("freed", "nothing is reserved"):
        await wire.stage(move, [(0, 10)])
    await wire.own("w-1", idle := new_own(paused=True))
    with refused("nothing_to_move", "no state here yet"):
        await wire.move_out(new_move(idle, "w-1", "w-2"))

    await wire.reserve(move, own)
    await wire.reserve(move, own)  # repeated, and answered as the first time
    with refused("busy", "another session is arriving"):
        await wire.reserve(new_move(idle, "w-1", "w-2"), idle)
    for spans in ([(0, 10), (5, 20)], [(0, 1 << 30)]):
        with refused("bad_spans", "span"):
            await wire.stage(move, spans)
    with refused("stale", "comes here"):
        await wire.own("w-2", next_own(own))
    await wire.call_off("w-2", move)
    await wire.until_news(move, "freed")
    with refused("freed", "didn't arrive"):
        await wire.own("w-2", next_own(own, epoch=2, move_id=move.move_id))
    with refused("stale", "is over"):
        await wire.reserve(move, own)
    await wire.drop("w-2", own.session, epoch=5)
    with refused("stale", "told to drop"):
        await wire.reserve(new_move(next_own(own, epoch=4), "w-1", "w-2"), own)
    for _ in range(4):
        await wire.own("w-2", full := new_own())
    with refused("no_slot", "slots are taken"):
        await wire.reserve(new_move(next_own(own, epoch=9), "w-1", "w-2"), own)
    assert full.session
    await wire.until_copy("w-1", own.session, state="running")


async def test_a_move_called_off_leaves_the_session_where_it_is(
    wire: MoveWire, lasting_pair: dict[str, Program]
) -> None:
    await playing(wire, own := new_own(), 2)
    await wire.reserve(move := new_move(own, "w-1", "w-2"), own)
    os.kill(lasting_pair["w-2"].pid, signal.SIGSTOP)
    await wire.move_out(move)
    await wire.call_off("w-1", move)
    await wire.until_news(move, "stayed")
    await wire.grant(own.session, 1)
    await wire.until_chunk(own.session, 3)
    os.kill(lasting_pair["w-2"].pid, signal.SIGCONT)
    await wire.until_news(move, "freed")
    async with wire.viewer(own.session):
        await wire.grant(own.session, 2)
        await wire.moved(own, "w-1", "w-2", epochs_on=2)


@pytest.fixture
def hasty_pair(fresh_nats: NatsServer, tmp_path: Path) -> Iterator[dict[str, Program]]:
    programs = start_pair(fresh_nats, tmp_path, move_patience_s=HASTY_S)
    yield programs
    for program in programs.values():
        program.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_target_that_dies_or_hangs_in_mid_transfer_holds_nobody_up(
    fresh_nats: NatsServer, hasty_pair: dict[str, Program], how: signal.Signals
) -> None:
    """The link is there from an earlier move: the bytes leave, and nobody takes them."""
    async with MoveWire(fresh_nats.url) as wire:
        await playing(wire, first := new_own(), 2)
        async with wire.viewer(first.session):
            await wire.grant(first.session, 1)
            await wire.moved(first, "w-1", "w-2")
        own = new_own("a slow red ball")
        async with wire.viewer(own.session):
            await playing(wire, own)
            await wire.reserve(move := new_move(own, "w-1", "w-2"), own)
            os.kill(hasty_pair["w-2"].pid, signal.SIGSTOP)
            await wire.move_out(move)
            os.kill(hasty_pair["w-2"].pid, how)
            await wire.until_news(move, "stayed")
            made = len(await wire.chunks(own.session))
            await wire.until_chunk(own.session, made + 1)
        chunks = await wire.chunks(own.session)
        assert {(chunk.epoch, chunk.worker) for chunk in chunks} == {(1, "w-1")}
        await shows_what_an_unmoved_session_shows(wire, own, "w-1")


async def test_a_target_that_hangs_once_it_has_the_state_leaves_the_session_to_its_source(
    fresh_nats: NatsServer, hasty_pair: dict[str, Program]
) -> None:
    async with MoveWire(fresh_nats.url) as wire:
        await playing(wire, own := new_own(), 2)
        move = await wire.move(own, "w-1", "w-2")
        await wire.until_news(move, "arrived")
        os.kill(hasty_pair["w-2"].pid, signal.SIGSTOP)
        await wire.until_news(move, "stayed")
        await wire.grant(own.session, 1)
        await wire.until_chunk(own.session, 3)
        os.kill(hasty_pair["w-2"].pid, signal.SIGCONT)
        await wire.until_news(move, "freed")
        await wire.until(lambda: wire.copy("w-2", own.session) is None)
        chunks = await wire.chunks(own.session)
        assert [(c.index, c.worker) for c in chunks] == [(i, "w-1") for i in range(4)]
        await shows_what_an_unmoved_session_shows(wire, own, "w-1")


async def test_a_source_that_dies_after_the_freeze_is_not_missed(
    fresh_nats: NatsServer, pair: dict[str, Program]
) -> None:
    async with MoveWire(fresh_nats.url) as wire:
        await playing(wire, own := new_own(), 2)
        move = await wire.move(own, "w-1", "w-2")
        await wire.until_news(move, "arrived")
        pair["w-1"].kill()
        await wire.commit(move, own, granted_through=1)
        await wire.until_news(move, "owner")
        await wire.until_chunk(own.session, 3)
        chunks = await wire.chunks(own.session)
        assert [(c.index, c.worker) for c in chunks] == [(0, "w-1"), (1, "w-1"), (2, "w-2"), (3, "w-2")]
        await shows_what_an_unmoved_session_shows(wire, own, "w-2")


async def test_a_source_that_dies_before_its_state_is_there_has_its_place_freed(
    fresh_nats: NatsServer, hasty_pair: dict[str, Program]
) -> None:
    async with MoveWire(fresh_nats.url) as wire:
        await playing(wire, own := new_own(), 2)
        await wire.reserve(move := new_move(own, "w-1", "w-2"), own)
        with refused("no_link", "no link from w-1"):
            await wire.stage(move, [(0, 10)])
        hasty_pair["w-1"].kill()
        assert (await wire.until_news(move, "freed")).why == "too late"
        lost = next_own(own, epoch=2, move_id=move.move_id)
        with refused("freed", "didn't arrive"):
            await wire.own("w-2", lost)
        await wire.own("w-2", next_own(own, epoch=3, granted_through=1))
        await wire.until_chunk(own.session, 3)


@pytest.mark.timeout(300)
async def test_the_shipped_model_goes_on_with_the_same_frames(fresh_nats: NatsServer, tmp_path: Path) -> None:
    """Its state has megabytes, and all of them are compared on arrival."""
    shipped = {"model": "sprites", "model_loader": "services.worker.models", "capacity": "2"}
    settings = {"max_batch": "1", "move_patience_s": PATIENT_S, "move_checksums": "true"}
    programs = start_pair(fresh_nats, tmp_path, **shipped, **settings)
    try:
        async with MoveWire(fresh_nats.url) as wire:
            ready = dict.fromkeys(programs, "ready")
            await wire.until(lambda: {w: r.state for w, r in wire.reports.items()} == ready, wait_s=120)
            own = new_own("a red ball moving right over the sea", model="sprites")
            async with wire.viewer(own.session):
                await playing(wire, own)
                await wire.moved(own, "w-1", "w-2")
                count = len(await wire.chunks(own.session)) + 2
                await wire.until_chunk(own.session, count - 1)
            assert {chunk.worker for chunk in await wire.chunks(own.session)} == {"w-1", "w-2"}
            await shows_what_an_unmoved_session_shows(wire, own, "w-1")
    finally:
        for program in programs.values():
            program.kill()


ROUNDS = 25


async def test_fifty_moves_leave_nothing_behind(wire: MoveWire) -> None:
    await wire.hear_vitals()
    await there_and_back(wire, 2)
    before = {worker: await wire.vitals(worker) for worker in WORKERS}
    await there_and_back(wire, ROUNDS)
    await wire.until_vitals(before)
    for worker in WORKERS:
        owns = [new_own(granted_through=-1) for _ in range(4)]
        for own in owns:
            await wire.own(worker, own)
        for own in owns:
            await wire.until_copy(worker, own.session, next_chunk=2, tier="device")


async def there_and_back(wire: MoveWire, rounds: int) -> None:
    own = new_own()
    async with wire.viewer(own.session):
        await playing(wire, own)
        for _ in range(rounds):
            own = await wire.moved(own, "w-1", "w-2")
            own = await wire.moved(own, "w-2", "w-1")
    await wire.drop("w-1", own.session, own.epoch)
    await wire.until(lambda: not any(wire.reports[worker].copies for worker in WORKERS))
    chunks = await wire.chunks(own.session)
    assert [chunk.index for chunk in chunks] == list(range(chunks[0].index, chunks[-1].index + 1))


async def test_workers_that_become_ready_are_linked_before_anything_moves(
    fresh_nats: NatsServer, tmp_path: Path
) -> None:
    """No move asks for another."""
    async with MoveWire(fresh_nats.url) as wire:
        asked: list[str] = []
        await wire.bus.subscribe(OPEN_LINK, lambda ask, _: asked.append(ask.peer), cell=CELL)
        await wire.bus.flush()
        programs = start_pair(fresh_nats, tmp_path, links_ahead="2", move_patience_s=PATIENT_S)
        try:
            await wire.until(lambda: bool(asked))
            await playing(wire, own := new_own("a red ball"), 2)
            before = len(asked)
            await wire.until_news(await wire.move(own, "w-1", "w-2"), "arrived")
            assert len(asked) == before
        finally:
            for program in programs.values():
                program.kill()
