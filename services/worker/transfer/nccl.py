"""Links between two GPUs through NCCL's own communicators, by nccl4py.

Written against nccl4py 0.6: "in progress" is no error to it, and its configuration suits an older NCCL; it
ran between H100s with 2.28.9. What it guards against: a blocking initialisation wedges in C when the peer
dies, so initialisation is non-blocking and polled; a receive without a sender never ends, so completion is
polled too; more than 256 operations in one group hang. The communicator is aborted at the first lateness. A
peer that dies can still poison the CUDA context, which the worker must take as the loss of its device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from services.worker.transfer.link import TAG_BYTES, Buffer, LinkLate, LinkLost, LinkRefused, rank_of
from services.worker.transfer.memory import check_buffers

logger = logging.getLogger(__name__)

_ID_BYTES = 128
_POLL_S, _POLL_SOON_S, _SOON_S = 0.0005, 0.00002, 0.005  # soon: what takes no longer is a move's pause
_OPERATIONS_PER_GROUP = 128
# Of the GPU's multiprocessors, while sessions go on beside a transfer; NCCL_MAX_CTAS overrules it.
_MAX_CTAS = 16


def nccl_available() -> bool:
    """Whether this process can offer NCCL. Loads it, which takes a moment: once, at start. A folder named
    `nccl` on the path would shadow the package.
    """
    if not torch.cuda.is_available():
        return False
    try:
        import nccl.core

        library = nccl.core.get_version().libnccl
    except ModuleNotFoundError as error:
        logger.info("sessions move without NCCL: %s", error)
        return False
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        logger.warning("sessions move without NCCL, which can't be used here: %s", error)
        return False
    logger.info("NCCL: %s", library or "its library is missing")
    return library is not None


class NcclTransport:
    """`device`: the worker's GPU."""

    name = "nccl"
    opens_alone = True  # to make a communicator beside transfers in flight can deadlock

    def __init__(self, device: torch.device) -> None:
        self._device = torch.device("cuda", device.index or 0)  # as tensors on it say it

    def invite(self) -> bytes:
        import nccl.core

        return bytes(nccl.core.get_unique_id())

    def open(self, invitation: bytes, me: str, peer: str, deadline_at: float) -> NcclLink:
        if len(invitation) != _ID_BYTES:
            raise LinkRefused(f"NCCL's unique id has {_ID_BYTES} bytes, the invitation {len(invitation)}")
        rank = rank_of(me, peer)
        import nccl.core

        with torch.cuda.device(self._device):
            config = nccl.core.NCCLConfig(blocking=False, max_ctas=_MAX_CTAS)
            unique_id = nccl.core.UniqueId.from_bytes(invitation)
            try:
                communicator = nccl.core.Communicator.init(2, rank, unique_id, config)
            except Exception as e:
                raise LinkLost(f"NCCL would not begin a communicator with {peer}: {e}") from e
            link = NcclLink(communicator, 1 - rank, self._device)
            link.wait_ready(deadline_at)
        return link


class NcclLink:
    """See `Link`. Buffers are on the link's device, and nothing on it has still to write them: transfers wait
    for no stream of the sessions'.
    """

    def __init__(self, communicator: Any, peer_rank: int, device: torch.device) -> None:
        self._communicator = communicator
        self._peer_rank = peer_rank
        self._device = device
        # What sessions' kernels leave free comes to a transfer first: else its few blocks wait for them all.
        self._stream = torch.cuda.Stream(device, priority=-1)
        # Allocated here: to allocate in mid-transfer can make the whole device wait.
        with torch.cuda.stream(self._stream):
            self._label = torch.zeros(TAG_BYTES, dtype=torch.uint8, device=device)
            self._answer = torch.zeros_like(self._label)
        self._tag = torch.zeros(TAG_BYTES, dtype=torch.uint8, pin_memory=True)
        self._abort_asked = False
        self._lost = False

    def wait_ready(self, deadline_at: float) -> None:
        """Until the communicator is there and has carried something both ways: at the first use of each, NCCL
        sets channels up and loads kernels. Raises `LinkLost`.
        """
        self._poll(lambda: True, deadline_at)
        # nccl4py compares every buffer's device with it, and is not to ask NCCL within a group.
        if self._communicator.device.device_id != self._device.index:
            self._give_up()
            raise LinkLost(f"NCCL opened the link on another device than {self._device}")
        communicator = self._communicator
        both = [(communicator.send, self._label), (communicator.recv, self._answer)]
        self._run(both, deadline_at)

    def send(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        self._check(buffers)
        self._tag.copy_(torch.frombuffer(bytearray(tag), dtype=torch.uint8))
        with torch.cuda.stream(self._stream):
            self._label.copy_(self._tag, non_blocking=True)
        send = self._communicator.send
        self._run([(send, buffer) for buffer in (self._label, *buffers)], deadline_at)

    def receive(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        self._check(buffers)
        receive = self._communicator.recv
        self._run([(receive, buffer) for buffer in (self._label, *buffers)], deadline_at)
        with torch.cuda.stream(self._stream):  # on the present one this would wait for the sessions' steps
            self._tag.copy_(self._label, non_blocking=True)
        self._stream.synchronize()
        if bytes(self._tag.tolist()) != tag:
            self._give_up()
            raise LinkLost("the peer sent another transfer: its tag is not the expected one")

    def healthy(self) -> bool:
        """NCCL notices a dead peer only when it sends: this is what is known, not what is so."""
        if self._lost or self._abort_asked:
            return False
        return not self._in_progress_or_lost()

    def abort(self) -> None:
        """The thread that polls the communicator aborts it: no two threads are in NCCL at once."""
        self._abort_asked = True

    def close(self) -> None:
        """Aborts: `destroy` would wait for the peer."""
        self._give_up()

    def _run(self, operations: Sequence[tuple[Callable[..., None], Buffer]], deadline_at: float) -> None:
        import nccl.core

        self._poll(lambda: True, deadline_at)
        with torch.cuda.device(self._device):
            for first in range(0, len(operations), _OPERATIONS_PER_GROUP):
                try:
                    with nccl.core.group():
                        for operation, buffer in operations[first : first + _OPERATIONS_PER_GROUP]:
                            operation(buffer, self._peer_rank, stream=self._stream.cuda_stream)
                except Exception as e:
                    self._give_up()
                    raise LinkLost(f"NCCL refused the transfer: {e}") from e
                self._poll(lambda: True, deadline_at)
            done = torch.cuda.Event()
            done.record(self._stream)
            self._poll(done.query, deadline_at)

    def _poll(self, done: Callable[[], bool], deadline_at: float) -> None:
        """NCCL first: while it says "in progress" no CUDA work may go to its stream."""
        soon = time.monotonic() + _SOON_S
        while self._in_progress_or_lost() or not done():
            if self._lost or self._abort_asked:
                self._give_up()
                raise LinkLost("the link was aborted, or NCCL failed")
            if (now := time.monotonic()) >= deadline_at:
                self._give_up()
                raise LinkLate("the deadline passed while waiting for the peer")
            time.sleep(_POLL_SOON_S if now < soon else _POLL_S)

    def _in_progress_or_lost(self) -> bool:
        from nccl.bindings import nccl as bindings

        if self._lost:
            return True
        state = self._communicator.get_async_error()
        self._lost = state not in (bindings.Result.Success, bindings.Result.InProgress)
        return state != bindings.Result.Success

    def _give_up(self) -> None:
        self._lost = True
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.abort()

    def _check(self, buffers: Sequence[Buffer]) -> None:
        if self._lost:
            raise LinkLost("the link was lost before")
        check_buffers(buffers)
        for buffer in buffers:
            if buffer.device != self._device:
                raise LinkRefused(f"memory is on {buffer.device}, the link on {self._device}")
