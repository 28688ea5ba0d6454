"""Links by CUDA IPC, with mapped files in a GPU's place: what is said when, refusals, who lets go when."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np
import pytest

from services.worker.transfer.host_name import on_this_host
from services.worker.transfer.ipc import IpcLink, IpcTransport
from services.worker.transfer.link import Link, LinkLate, LinkLost, LinkRefused
from services.worker.transfer.manifest import tag_of
from tests.unit.worker.transfer.lent_files import FailingFiles, Files, transport_of
from tests.unit.worker.transfer.peer import ME, PEER, peer, soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA IPC is Linux's")

TAG, OTHER = tag_of("m-1", 0), tag_of("m-1", 1)
DATA = list(range(80))

Aside = Callable[..., Future]


class Pair:
    """Both ends of a link, each with a device of its own."""

    def __init__(self, folder: Path) -> None:
        self.files = (FailingFiles(folder), FailingFiles(folder))
        self.links: tuple[IpcLink, ...] = ()

    def open(self, aside: Aside) -> None:
        with transport_of(self.files[0]) as mine, transport_of(self.files[1]) as yours:
            invitation = mine.invite()
            theirs = aside(yours.open, invitation, PEER, ME, soon())
            self.links = (mine.open(invitation, ME, PEER, soon()), theirs.result(20))

    def close(self) -> None:
        for link in self.links:
            link.close()


@pytest.fixture
def aside() -> Iterator[Aside]:
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def pair(tmp_path: Path, aside: Aside) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    pair.open(aside)
    yield pair
    pair.close()


def test_bytes_go_both_ways_and_an_allocation_is_mapped_once(pair: Pair, aside: Aside) -> None:
    for out, home in ((0, 1), (1, 0), (0, 1)):
        state, into = pair.files[out].filled(DATA), pair.files[home].blank(80)
        before = pair.files[home].times_mapped
        for tag in (TAG, OTHER):
            into[:] = 0
            parts = [into[50:], into[:20]]
            receiving = aside(pair.links[home].receive, parts, tag, soon())
            pair.links[out].send([state[50:], state[:20]], tag, soon())
            receiving.result(20)
            assert list(into) == DATA[:20] + [0] * 30 + DATA[50:]
        assert pair.files[home].times_mapped == before + 1
    pair.close()
    assert not pair.files[0].mapped
    assert not pair.files[1].mapped


def test_no_more_is_mapped_than_is_sensible(pair: Pair, aside: Aside) -> None:
    for number in range(40):
        into = pair.files[1].blank(3)
        receiving = aside(pair.links[1].receive, [into], TAG, soon())
        pair.links[0].send([pair.files[0].filled([number] * 3)], TAG, soon())
        receiving.result(20)
        assert list(into) == [number] * 3
        assert len(pair.files[1].mapped) <= 16


@pytest.mark.parametrize(
    ("sizes", "tag", "words"),
    [
        ([80], OTHER, "its tag is not the expected one"),
        ([72], TAG, "80 bytes instead of 72"),
        ([40, 40], TAG, "into other pieces"),
    ],
)
def test_another_transfer_than_the_expected_one_loses_the_link(
    pair: Pair, aside: Aside, sizes: list[int], tag: bytes, words: str
) -> None:
    sending = aside(pair.links[0].send, [pair.files[0].filled(DATA)], TAG, soon())
    with pytest.raises(LinkLost, match=words):
        pair.links[1].receive([pair.files[1].blank(size) for size in sizes], tag, soon())
    with pytest.raises(LinkLost):
        sending.result(20)
    assert not pair.links[0].healthy()


def test_a_sender_that_has_let_go_leaves_no_receiver_that_believes_what_it_copied(
    pair: Pair, aside: Aside
) -> None:
    """The copy is under way, the sender gives up, and its memory is another session's: what is copied then
    may not pass for the state.
    """
    state, into = pair.files[0].filled(DATA), pair.files[1].blank(80)
    pair.files[1].told.clear()
    pair.files[1].going.clear()
    receiving = aside(pair.links[1].receive, [into], TAG, soon())
    sending = aside(pair.links[0].send, [state], TAG, soon())
    assert pair.files[1].told.wait(20)
    pair.links[0].abort()
    with pytest.raises(LinkLost):
        sending.result(20)
    state[:] = 7
    assert not receiving.done()
    pair.files[1].going.set()
    with pytest.raises(LinkLost):
        receiving.result(20)
    assert set(into) == {7}


@pytest.mark.parametrize("seconds", [1.0, None])
def test_a_receiver_that_gives_up_returns_only_when_nothing_writes_any_more(
    pair: Pair, aside: Aside, seconds: float | None
) -> None:
    """Late, or aborted by another thread."""
    pair.files[1].told.clear()
    pair.files[1].going.clear()
    into = pair.files[1].blank(80)
    receiving = aside(pair.links[1].receive, [into], TAG, soon(seconds or 20))
    sending = aside(pair.links[0].send, [pair.files[0].filled(DATA)], TAG, soon())
    assert pair.files[1].told.wait(20)
    if seconds is None:
        pair.links[1].abort()
    else:
        with pytest.raises(LinkLost):  # of the late one
            sending.result(20)
    assert not receiving.done()
    pair.files[1].going.set()
    with pytest.raises(LinkLost if seconds is None else LinkLate):
        receiving.result(20)
    assert pair.files[1].idle()
    with pytest.raises(LinkLost):
        sending.result(20)


def test_a_device_that_fails_in_mid_transfer_loses_the_link_on_both_sides(pair: Pair, aside: Aside) -> None:
    pair.files[1].failing = True
    sending = aside(pair.links[0].send, [pair.files[0].filled(DATA)], TAG, soon())
    with pytest.raises(LinkLost, match="the GPU would not"):
        pair.links[1].receive([pair.files[1].blank(80)], TAG, soon())
    with pytest.raises(LinkLost):
        sending.result(20)
    assert not pair.links[1].healthy()


def test_who_waits_for_nobody_is_late_and_a_lost_link_stays_lost(pair: Pair) -> None:
    with pytest.raises(LinkLate):
        pair.links[0].send([pair.files[0].filled(DATA)], TAG, soon(0.05))
    with pytest.raises(LinkLost):
        pair.links[0].send([pair.files[0].filled(DATA)], TAG, soon())
    with pytest.raises(LinkLost):
        pair.links[1].receive([pair.files[1].blank(80)], TAG, soon())


def test_memory_that_is_not_the_devices_is_refused_before_a_byte_moves(pair: Pair) -> None:
    foreign = np.zeros(80, np.uint8)
    for transfer in (pair.links[0].send, pair.links[1].receive):
        with pytest.raises(LinkRefused, match="not memory of this device"):
            transfer([foreign], TAG, soon())
    assert pair.links[0].healthy()
    assert pair.links[1].healthy()


@pytest.mark.parametrize("who", [0, 1])
def test_where_one_side_cant_map_the_others_memory_both_refuse_the_link(
    tmp_path: Path, aside: Aside, who: int
) -> None:
    files = [Files(tmp_path), Files(tmp_path)]
    files[who].refusal = "peer access is not supported"
    with transport_of(files[0]) as mine, transport_of(files[1]) as yours:
        invitation = mine.invite()
        theirs = aside(yours.open, invitation, PEER, ME, soon())
        with pytest.raises(LinkRefused, match="peer access is not supported"):
            mine.open(invitation, ME, PEER, soon())
        with pytest.raises(LinkRefused, match="peer access is not supported"):
            theirs.result(20)
    assert not files[0].mapped
    assert not files[1].mapped


class Elsewhere(Files):
    """Maps other memory than the peer's, as a wrong address would."""

    def handle(self, allocation: int) -> bytes:
        return super().handle(next(number for number in self._own if number != allocation))


def test_a_mapping_that_shows_other_bytes_than_the_peers_is_refused(tmp_path: Path, aside: Aside) -> None:
    files = [Elsewhere(tmp_path), Files(tmp_path)]
    files[0].blank(64)
    with transport_of(files[0]) as mine, transport_of(files[1]) as yours:
        invitation = mine.invite()
        theirs = aside(yours.open, invitation, PEER, ME, soon())
        for opening in (lambda: mine.open(invitation, ME, PEER, soon()), lambda: theirs.result(20)):
            with pytest.raises(LinkRefused, match="other bytes were read"):
                opening()


def test_an_invitation_from_another_host_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with transport_of(files) as mine, transport_of(files, "elsewhere") as other:
        assert (mine.name, other.name) == ("ipc-here", "ipc-elsewhere")
        with pytest.raises(LinkRefused, match="on another host"):
            mine.open(other.invite(), PEER, ME, soon())
        with pytest.raises(LinkRefused, match="not made here"):
            IpcTransport(files, "here").open(mine.invite(), ME, PEER, soon())
        for wrong in (b"", b"\xc1", msgspec.msgpack.encode({"host": "x"})):
            with pytest.raises(LinkRefused, match="not one for CUDA IPC"):
                mine.open(wrong, PEER, ME, soon())
        with pytest.raises(LinkLate):
            mine.open(mine.invite(), ME, PEER, soon(0.05))


def test_a_process_of_another_user_hears_of_no_memory(
    tmp_path: Path, aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with transport_of(Files(tmp_path)) as mine, transport_of(Files(tmp_path)) as yours:
        invitation = mine.invite()
        theirs = aside(yours.open, invitation, PEER, ME, soon())
        with pytest.raises(LinkRefused, match="a process of user"):
            mine.open(invitation, ME, PEER, soon())
        with pytest.raises(LinkRefused, match="a process of user"):
            theirs.result(20)


def test_a_host_has_one_name_and_no_other_may_sit_in_it() -> None:
    assert on_this_host() == on_this_host()
    assert len(on_this_host()) == 8


def test_what_a_peer_says_is_not_believed_blindly(pair: Pair) -> None:
    """It lends more than the allocation holds."""
    state, into = pair.files[0].filled(DATA), pair.files[1].blank(80)
    lent = pair.links[0]._lent([state], TAG)
    beyond = msgspec.structs.replace(lent, places=[msgspec.structs.replace(lent.places[0], offset=1)])
    pair.links[0]._say(beyond, soon())
    with pytest.raises(LinkLost, match="what it doesn't have"):
        pair.links[1].receive([into], TAG, soon())


def holder(pipe: Connection, link: Link) -> None:
    """Lends its memory, and never hears whether it was fetched."""
    assert isinstance(link, IpcLink)
    assert isinstance(link._lending, Files)
    state = link._lending.filled([9] * 4096)
    pipe.send_bytes(b"here")
    link.send([state], TAG, soon(60))


@pytest.mark.parametrize(("how", "expected"), [(signal.SIGKILL, LinkLost), (signal.SIGSTOP, None)])
def test_between_two_processes_a_killed_sender_is_noticed_and_a_stopped_one_harms_nothing(
    tmp_path: Path, how: signal.Signals, expected: type[LinkLost] | None
) -> None:
    """A stopped one has lent its memory, which stays as it is."""
    files = Files(tmp_path)
    with transport_of(files) as mine, peer(holder, mine, str(tmp_path)) as other:
        assert other.pipe.recv_bytes() == b"here"
        into = files.blank(4096)
        if expected is None:
            wait_for(other.link, select.POLLIN)
            os.kill(other.pid, how)
            other.link.receive([into], TAG, soon())
            assert set(into) == {9}
        else:
            os.kill(other.pid, how)
            wait_for(other.link, select.POLLRDHUP)
            with pytest.raises(LinkLost):
                other.link.receive([into], TAG, soon())


def wait_for(link: Link, event: int) -> None:
    assert isinstance(link, IpcLink)
    poll = select.poll()
    poll.register(link._socket, event)
    assert poll.poll(20_000)
