"""The other worker of a pair, as a process of its own; both are told what to do through a pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from services.worker.transfer.ipc import IpcTransport
from services.worker.transfer.link import Link, Transport
from services.worker.transfer.tcp import TcpTransport
from tests.unit.worker.transfer.lent_files import Files

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
def peer(
    play: Callable[[Connection, Link], None], transport: Transport | None = None, folder: str = ""
) -> Iterator[Peer]:
    """A process that joins a link with this one and then plays its part. `transport`: None: TCP; else one by
    IPC, with the files of `folder` for memory.
    """
    pipe, theirs = _STARTER.Pipe()
    process = _STARTER.Process(target=_run, args=(theirs, play, folder), daemon=True)
    process.start()
    theirs.close()
    transport = transport or TcpTransport(HOST)
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


def _run(pipe: Connection, play: Callable[[Connection, Link], None], folder: str) -> None:
    os.nice(10)
    transport = IpcTransport(Files(Path(folder)), "here") if folder else TcpTransport(HOST)
    link = transport.open(pipe.recv_bytes(), PEER, ME, soon())
    play(pipe, link)
