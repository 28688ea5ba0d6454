"""Links between real processes, and peers that die or hang in mid-transfer."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection

import msgspec
import pytest
import torch

from services.worker.models import load_model
from services.worker.models.protocol import SessionModel, State
from services.worker.transfer.link import Link, LinkLate, LinkLost
from services.worker.transfer.manifest import (
    Compatibility,
    Manifest,
    buffers_for,
    check,
    checksum_of,
    describe,
    tag_of,
    verify,
)
from tests.unit.worker.transfer.peer import peer, soon

TAG = tag_of("m-1", 0)
MORE_THAN_BUFFERS_HOLD = 64 << 20


def make_chunk(model: SessionModel, state: State) -> torch.Tensor:
    for _ in range(model.begin_chunk(state, model.spec.rungs[0])):
        model.forward([state])
    return model.decode(state)


def class_of(model: SessionModel) -> Compatibility:
    spec = model.spec
    geometry = f"{spec.width}x{spec.height}x{spec.chunk_frames}"
    return Compatibility(spec.name, spec.rungs[0].kv_dtype, spec.weights_digest, geometry)


def target(pipe: Connection, link: Link) -> None:
    model = load_model("sprites")
    manifest = msgspec.msgpack.decode(pipe.recv_bytes(), type=Manifest)
    check(manifest, class_of(model), model.spec.state_bytes * 2)
    tensors = buffers_for(manifest)
    pipe.send_bytes(b"accepted")
    link.receive(list(tensors.values()), tag_of(manifest.move_id, 0), soon())
    verify(manifest, tensors)
    pipe.send({name: checksum_of(tensor) for name, tensor in tensors.items()})
    state = model.import_state(tensors)
    pipe.send([checksum_of(make_chunk(model, state)) for _ in range(2)])


def test_a_moved_session_has_equal_bytes_and_goes_on_with_equal_frames() -> None:
    model = load_model("sprites")
    state = model.open(seed=11, prompt="a red ball moving right over the sea")
    for _ in range(3):
        make_chunk(model, state)
    tensors = {name: tensor.contiguous() for name, tensor in model.export_state(state).items()}
    manifest = describe(tensors, move_id="m-1", session="s-1", compatibility=class_of(model), checksums=True)
    with peer(target) as other:
        other.pipe.send_bytes(msgspec.msgpack.encode(manifest))
        assert other.pipe.recv_bytes() == b"accepted"
        other.link.send(list(tensors.values()), TAG, soon())
        assert other.pipe.recv() == {name: checksum_of(tensor) for name, tensor in tensors.items()}
        stayed = [checksum_of(make_chunk(model, state)) for _ in range(2)]
        assert other.pipe.recv() == stayed


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
