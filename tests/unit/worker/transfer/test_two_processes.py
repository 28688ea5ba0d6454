"""Links between real processes, and peers that die or hang in mid-transfer."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection

import pytest
import torch

from services.worker.transfer.link import Link, LinkLate, LinkLost
from services.worker.transfer.manifest import tag_of
from tests.unit.worker.transfer.peer import peer, soon

TAG = tag_of("m-1", 0)
MORE_THAN_BUFFERS_HOLD = 64 << 20


def receiver_told_to_stop(pipe: Connection, link: Link) -> None:
    """Takes one transfer and no more."""
    link.receive([torch.empty(1024, dtype=torch.uint8)], TAG, soon())
    pipe.send_bytes(b"got one")
    pipe.recv_bytes()


@pytest.mark.parametrize(("how", "expected"), [(signal.SIGKILL, LinkLost), (signal.SIGSTOP, LinkLate)])
def test_a_sender_outlives_a_peer_that_dies_or_hangs_in_mid_transfer(
    how: signal.Signals, expected: type[LinkLost]
) -> None:
    with peer(receiver_told_to_stop) as other:
        other.link.send([torch.ones(1024, dtype=torch.uint8)], TAG, soon())
        assert other.pipe.recv_bytes() == b"got one"
        os.kill(other.pid, how)
        with pytest.raises(LinkLost) as caught:
            other.link.send([torch.ones(MORE_THAN_BUFFERS_HOLD, dtype=torch.uint8)], TAG, soon(0.5))
        assert isinstance(caught.value, expected)
        assert not other.link.healthy()
        with pytest.raises(LinkLost):
            other.link.send([torch.ones(1, dtype=torch.uint8)], TAG, soon())


def sender_of_half(pipe: Connection, link: Link) -> None:
    """Stuck in the middle once its and the receiver's socket buffers are full."""
    pipe.send_bytes(b"here")
    link.send([torch.ones(MORE_THAN_BUFFERS_HOLD, dtype=torch.uint8)], TAG, time.monotonic() + 60)


@pytest.mark.parametrize(("how", "expected"), [(signal.SIGKILL, LinkLost), (signal.SIGSTOP, LinkLate)])
def test_a_receiver_outlives_a_peer_that_dies_or_hangs_in_mid_transfer(
    how: signal.Signals, expected: type[LinkLost]
) -> None:
    """The peer is stopped while its buffers are full, so that only a part of the transfer can arrive."""
    with peer(sender_of_half) as other:
        assert other.pipe.recv_bytes() == b"here"
        os.kill(other.pid, how)
        into = torch.zeros(MORE_THAN_BUFFERS_HOLD, dtype=torch.uint8)
        with pytest.raises(LinkLost) as caught:
            other.link.receive([into], TAG, soon(0.5))
        assert isinstance(caught.value, expected)
        assert not into.all()
