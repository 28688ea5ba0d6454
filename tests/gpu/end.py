"""One end of links between two processes, each with a GPU of its own: the other process is told by a pipe
what to do at its end, and what the test does itself is written with the same words.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from services.worker.transfer.cuda_lending import cuda_ipc
from services.worker.transfer.link import Link, Transport
from services.worker.transfer.manifest import tag_of
from services.worker.transfer.nccl import NcclTransport

TAG = tag_of("m-1", 0)
ANSWER_S = 120.0
Sizes = tuple[int, ...]


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


class End:
    """`number`: of its GPU; the first one invites."""

    def __init__(self, number: int) -> None:
        self.device = torch.device("cuda", number)
        torch.cuda.set_device(self.device)
        self._transports: dict[str, Transport] = {}
        self.link: Link | None = None
        self._pools: dict[int, torch.Tensor] = {}
        self._busy, self._rest = threading.Event(), threading.Event()

    def transport(self, kind: str) -> Transport:
        if kind not in self._transports:
            made = cuda_ipc(str(self.device)) if kind == "ipc" else NcclTransport(self.device)
            assert made is not None
            self._transports[kind] = made
        return self._transports[kind]

    def open(self, kind: str, invitation: bytes) -> str:
        me, peer = ("a", "b") if self.device.index == 0 else ("b", "a")
        self.link = self.transport(kind).open(invitation, me, peer, soon())
        return self.transport(kind).name

    def close(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def memory(self, sizes: Sizes, seed: int | None) -> list[torch.Tensor]:
        """Cuts of one allocation, one after the other: random, or zeros for None."""
        row = self._pool(sum(sizes))
        if seed is None:
            row.zero_()
        else:
            generator = torch.Generator(self.device).manual_seed(seed)
            row.random_(0, 256, generator=generator)
        torch.cuda.synchronize(self.device)
        return list(row.split(list(sizes)))

    def _pool(self, size: int) -> torch.Tensor:
        if size not in self._pools:
            self._pools[size] = torch.empty(size, dtype=torch.uint8, device=self.device)
        return self._pools[size]

    def send(self, sizes: Sizes, seed: int, tag: bytes = TAG, seconds: float = 30.0) -> float:
        """How long it took."""
        assert self.link is not None
        held = self.memory(sizes, seed)
        started = time.monotonic()
        self.link.send(held, tag, soon(seconds))
        return time.monotonic() - started

    def blank(self, sizes: Sizes) -> None:
        self.memory(sizes, None)

    def take(self, sizes: Sizes, tag: bytes = TAG, seconds: float = 30.0) -> None:
        """Into memory that was made blank before."""
        assert self.link is not None
        self.link.receive(list(self._pool(sum(sizes)).split(list(sizes))), tag, soon(seconds))

    def has(self, sizes: Sizes, seed: int) -> bool:
        """Whether what came is what `send` sends with the same seed."""
        came = self._pool(sum(sizes)).clone()
        self.memory(sizes, seed)
        return torch.equal(came, self._pool(sum(sizes)))

    def receive(self, sizes: Sizes, seed: int, tag: bytes = TAG, seconds: float = 30.0) -> bool:
        self.blank(sizes)
        self.take(sizes, tag, seconds)
        return self.has(sizes, seed)

    def healthy(self) -> bool:
        return self.link is not None and self.link.healthy()

    def free_bytes(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.mem_get_info(self.device)[0]

    def be_busy(self) -> None:
        """Until `rest`: the device has more to do than it can."""
        self._rest.clear()
        threading.Thread(target=self._multiply, daemon=True).start()
        assert self._busy.wait(ANSWER_S)

    def rest(self) -> None:
        self._rest.set()

    def _multiply(self) -> None:
        torch.cuda.set_device(self.device)
        matrix = torch.ones(8192, 8192, device=self.device, dtype=torch.bfloat16)
        while not self._rest.is_set():
            for _ in range(8):
                torch.mm(matrix, matrix)
            self._busy.set()
            torch.cuda.current_stream().synchronize()


class Far:
    """The other process: `ask` tells it, `answer` is what it did, `do` is both."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, what: str, *arguments: Any) -> None:
        self._pipe.send((what, arguments))

    def answer(self) -> Any:
        """Raises what it raised."""
        assert self._pipe.poll(ANSWER_S), "the other process says nothing"
        said = self._pipe.recv()
        if isinstance(said, BaseException):
            raise said
        return said

    def do(self, what: str, *arguments: Any) -> Any:
        self.ask(what, *arguments)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(ANSWER_S)


def _serve(pipe: Connection) -> None:
    end = End(1)
    with contextlib.suppress(EOFError):
        while True:
            what, arguments = pipe.recv()
            try:
                pipe.send(getattr(end, what)(*arguments))
            except Exception as error:  # noqa: BLE001
                pipe.send(error)


@contextlib.contextmanager
def linked(near: End, far: Far, kind: str) -> Iterator[str]:
    """Its name."""
    invitation = near.transport(kind).invite()
    far.ask("open", kind, invitation)
    name = near.open(kind, invitation)
    assert far.answer() == name
    try:
        yield name
    finally:
        near.close()
        if far.process.is_alive():
            far.do("close")
