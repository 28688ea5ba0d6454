"""Both ends of links in one process."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from services.worker.transfer.choose import choose_transport
from services.worker.transfer.link import LinkLate, LinkLost, LinkRefused, rank_of
from services.worker.transfer.manifest import tag_of
from services.worker.transfer.nccl import NcclTransport, nccl_available
from services.worker.transfer.pairs import PairBusy, Pairs
from services.worker.transfer.tcp import TcpLink, TcpTransport
from tests.unit.worker.transfer.peer import HOST, ME, PEER, soon

TAG = tag_of("m-1", 0)
DATA = torch.arange(80, dtype=torch.uint8)


@pytest.fixture
def aside() -> Iterator[Callable[..., Future]]:
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def transport() -> Iterator[TcpTransport]:
    transport = TcpTransport(HOST)
    yield transport
    transport.close()


@pytest.fixture
def ends(transport: TcpTransport, aside: Callable[..., Future]) -> Iterator[tuple[TcpLink, TcpLink]]:
    invitation = transport.invite()
    theirs = aside(TcpTransport(HOST).open, invitation, PEER, ME, soon())
    mine = transport.open(invitation, ME, PEER, soon())
    yield mine, theirs.result()
    mine.close()
    theirs.result().close()


def test_bytes_go_both_ways_between_tensors_and_arrays(
    ends: tuple[TcpLink, TcpLink], aside: Callable[..., Future]
) -> None:
    for sender, receiver in (ends, ends[::-1]):
        into: list[Any] = [torch.zeros_like(DATA), np.zeros(30, np.uint8), np.zeros(10, np.uint8)]
        receiving = aside(receiver.receive, into, TAG, soon())
        sender.send([np.arange(40, dtype=np.uint8), DATA[40:], DATA[:40]], TAG, soon())
        receiving.result()
        assert torch.equal(into[0], DATA)
        assert bytes(into[1]) + bytes(into[2]) == bytes(range(40))
    assert ends[0].healthy()


@pytest.mark.parametrize(
    ("into", "tag", "words"),
    [
        (DATA.clone(), tag_of("m-1", 1), "its tag is not the expected one"),
        (DATA[:72].clone(), TAG, "80 bytes instead of 72"),
    ],
)
def test_another_transfer_than_the_expected_one_loses_the_link(
    ends: tuple[TcpLink, TcpLink], aside: Callable[..., Future], into: torch.Tensor, tag: bytes, words: str
) -> None:
    sending = aside(ends[0].send, [DATA], TAG, soon())
    with pytest.raises(LinkLost, match=words):
        ends[1].receive([into], tag, soon())
    with pytest.raises(LinkLost):
        sending.result()
    assert not ends[0].healthy()


def test_a_transfer_may_begin_before_the_peer_is_done_with_the_last_one(
    ends: tuple[TcpLink, TcpLink], aside: Callable[..., Future]
) -> None:
    sending = aside(ends[0].send, [DATA], TAG, soon())
    assert select.select([ends[1]._socket], [], [], 20)[0]
    assert ends[1].healthy()
    ends[1].receive([DATA.clone()], TAG, soon())
    sending.result()
    ends[0].abort()
    assert not ends[1].healthy()


def test_abort_ends_a_wait_in_another_thread(
    ends: tuple[TcpLink, TcpLink], aside: Callable[..., Future]
) -> None:
    receiving = aside(ends[0].receive, [DATA.clone()], TAG, soon())
    ends[0].abort()
    with pytest.raises(LinkLost):
        receiving.result(timeout=20)


@pytest.mark.parametrize("tensor", [DATA[::2], DATA.view(8, 10), DATA.float(), DATA.to("meta")])
def test_what_can_not_be_sent_is_refused_before_a_byte_moves(
    ends: tuple[TcpLink, TcpLink], tensor: torch.Tensor
) -> None:
    with pytest.raises(LinkRefused):
        ends[0].send([tensor], TAG, soon())
    assert ends[0].healthy()
    assert ends[1].healthy()


def test_nobody_comes(transport: TcpTransport) -> None:
    with pytest.raises(LinkLate):
        transport.open(transport.invite(), ME, PEER, soon(0.05))


def test_a_stranger_is_turned_away_and_the_peer_still_gets_in(
    transport: TcpTransport, aside: Callable[..., Future]
) -> None:
    invitation = transport.invite()
    address = (HOST, msgspec.msgpack.decode(invitation)["port"])
    mine = aside(transport.open, invitation, ME, PEER, soon())
    with socket.create_connection(address) as stranger:
        stranger.sendall(b"x" * 32)
        assert stranger.recv(1) == b""
    theirs = TcpTransport(HOST).open(invitation, PEER, ME, soon())
    assert mine.result().healthy()
    mine.result().close()
    theirs.close()


@pytest.mark.parametrize("invitation", [b"", b"\xc1 nonsense", msgspec.msgpack.encode({"host": HOST})])
def test_an_invitation_that_is_none_is_refused(transport: TcpTransport, invitation: bytes) -> None:
    with pytest.raises(LinkRefused, match="not one for TCP"):
        transport.open(invitation, PEER, ME, soon())


def test_an_invitation_serves_once_and_only_its_maker(transport: TcpTransport) -> None:
    with pytest.raises(LinkRefused, match="not made here"):
        TcpTransport(HOST).open(transport.invite(), ME, PEER, soon())


def test_sides_agree_without_asking() -> None:
    assert (rank_of(ME, PEER), rank_of(PEER, ME)) == (0, 1)
    with pytest.raises(LinkRefused):
        rank_of(ME, ME)
    assert choose_transport(["tcp", "nccl"], ["nccl", "tcp"]) == "nccl"
    assert choose_transport(["tcp"], ["nccl", "tcp"]) == "tcp"
    with pytest.raises(LinkRefused, match="no common transport"):
        choose_transport(["nccl"], ["tcp"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of machines without a GPU")
def test_without_a_gpu_nccl_is_not_offered() -> None:
    assert not nccl_available()


def test_an_invitation_of_another_transport_is_refused_by_nccl(transport: TcpTransport) -> None:
    with pytest.raises(LinkRefused, match="128 bytes"):
        NcclTransport(torch.device("cuda")).open(transport.invite(), ME, PEER, soon())


class Workers:
    """One worker's pairs, and peers that join whatever they are invited to."""

    def __init__(self, limit: int) -> None:
        self.transport = TcpTransport(HOST)
        self.pairs = Pairs(self.transport, ME, limit)
        self.theirs: dict[str, TcpLink] = {}

    def open(self, peer: str) -> None:
        invitation = self.pairs.invite()
        join = threading.Thread(target=self.join, args=(peer, invitation))
        join.start()
        self.pairs.open(peer, invitation, soon())
        join.join()

    def join(self, peer: str, invitation: bytes) -> None:
        self.theirs[peer] = TcpTransport(HOST).open(invitation, peer, ME, soon())

    def close(self) -> None:
        self.pairs.close()
        for link in self.theirs.values():
            link.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(limit=2)
    yield workers
    workers.close()


def test_pairs_are_bounded_and_the_longest_unused_goes(workers: Workers) -> None:
    for peer in ("w-b", "w-c"):
        workers.open(peer)
    with workers.pairs.use("w-b", soon()):
        pass
    workers.open("w-d")
    assert [workers.pairs.has(peer) for peer in ("w-b", "w-c", "w-d")] == [True, False, True]
    assert not workers.theirs["w-c"].healthy()


def test_a_link_is_used_by_one_move_at_a_time(workers: Workers) -> None:
    workers.open("w-b")
    with workers.pairs.use("w-b", soon()):
        with pytest.raises(PairBusy), workers.pairs.use("w-b", soon()):
            pass
        workers.open("w-c")
    with workers.pairs.use("w-b", soon()) as link:
        assert link.healthy()


def test_a_transport_may_ask_that_none_is_in_use_while_one_is_opened(workers: Workers) -> None:
    workers.transport.opens_alone = True
    workers.open("w-b")
    with workers.pairs.use("w-b", soon()), pytest.raises(LinkLate, match="stayed in use"):
        workers.pairs.open("w-c", b"", soon(0.01))


def test_who_comes_while_the_link_is_opened_waits_for_it(
    workers: Workers, aside: Callable[..., Future]
) -> None:
    invitation = workers.pairs.invite()
    opening = aside(workers.pairs.open, "w-b", invitation, soon())
    with workers.pairs._changed:
        assert workers.pairs._changed.wait_for(lambda: workers.pairs._opening or opening.done(), 20)

    def use() -> bool:
        with workers.pairs.use("w-b", soon()) as link:
            return link.healthy()

    using = aside(use)
    workers.join("w-b", invitation)
    assert using.result(timeout=20)


def test_a_link_whose_use_failed_or_whose_peer_left_is_not_used_again(workers: Workers) -> None:
    workers.open("w-b")
    with pytest.raises(RuntimeError), workers.pairs.use("w-b", soon()):
        raise RuntimeError("in mid-transfer")
    assert not workers.pairs.has("w-b")
    workers.open("w-b")
    workers.theirs["w-b"].close()
    assert not workers.pairs.has("w-b")
    workers.open("w-b")
    with workers.pairs.use("w-b", soon()) as link:
        assert link.healthy()


def test_pairs_abort_what_waits_on_them(workers: Workers, aside: Callable[..., Future]) -> None:
    workers.open("w-b")
    with workers.pairs.use("w-b", soon()) as link:
        receiving = aside(link.receive, [DATA.clone()], TAG, soon())
        workers.pairs.abort("w-b")
        with pytest.raises(LinkLost):
            receiving.result(timeout=20)
