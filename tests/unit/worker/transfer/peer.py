"""The other worker of a pair, as a process of its own; both are told what to do through a pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from services.worker.transfer.link import Link
from services.worker.transfer.tcp import TcpTransport

ME, PEER = "w-a", "w-b"
HOST = "127.0.0.1"
_STARTER = multiprocessing.get_context("forkserver")  # imports torch once for all peers
_STARTER.set_forkserver_preload(["services.worker.transfer.tcp", "torch"])


def soon(seconds: float = 20.0) -> float:
    """A deadline that only a hang would reach."""
    return time.monotonic() + seconds


@dataclass(frozen=True)
class Peer:
    pid: int
    pipe: Connection
    link: Link


@contextlib.contextmanager
def peer(play: Callable[[Connection, Link], None]) -> Iterator[Peer]:
    """A process that joins a link with this one and then plays its part."""
    pipe, theirs = _STARTER.Pipe()
    process = _STARTER.Process(target=_run, args=(theirs, play), daemon=True)
    process.start()
    theirs.close()
    transport = TcpTransport(HOST)
    try:
        assert process.pid is not None
        pipe.send_bytes(invitation := transport.invite())
        link = transport.open(invitation, ME, PEER, soon(50))
        yield Peer(process.pid, pipe, link)
        link.close()
    finally:
        process.kill()
        process.join()
        pipe.close()


def _run(pipe: Connection, play: Callable[[Connection, Link], None]) -> None:
    os.nice(10)
    link = TcpTransport(HOST).open(pipe.recv_bytes(), PEER, ME, soon())
    play(pipe, link)
