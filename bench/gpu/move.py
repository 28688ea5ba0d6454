"""A session that goes back and forth between two processes, each playing a session of its own beside it, over
the workers' own links: NCCL between two GPUs, else TCP.

What the chunk under way won't write goes ahead during its clean pass, what that wrote while the source
decodes the chunk, and last what the decode left for the next one, while the target denoises. This is the
data's way alone: what the protocol and the log add is measured with whole workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.gpu.errors import twin
from bench.gpu.lab import Setting, chunk, fill_window, settle
from bench.gpu.report import Report, quantile
from services.worker.models.wan.model import Wan
from services.worker.models.wan.session import DECODER, LATENTS, State
from services.worker.transfer.link import TAG_BYTES, Link, Transport
from services.worker.transfer.nccl import NcclTransport, nccl_available
from services.worker.transfer.tcp import TcpTransport

_MOVES, _REHEARSED, _QUIET_CHUNKS = 200, 6, 8
_LIMIT_S = 100.0  # fewer moves, if they take longer
_WAIT_S = 60.0

Spans = Sequence[tuple[int, int]]


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    context = torch.multiprocessing.get_context("spawn")
    ends, results = context.Pipe(), [context.Pipe(), context.Pipe()]
    places = [_place(setting, rank) for rank in range(2)]
    workers = [
        context.Process(target=_worker, args=(rank, places[rank], ends[rank], results[rank][1]), daemon=True)
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        said = [_heard(results[rank][0], 4 * _WAIT_S + _LIMIT_S) for rank in range(2)]
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    _tell(report, said)


def _tell(report: Report, said: list[dict[str, Any]]) -> None:
    report.row("link", f"{said[0]['transport']}, opened in {max(s['opened_s'] for s in said):.2f} s")
    moves = [move for each in said for move in each["moves"]]
    report.row(
        "moves; bytes ahead, after the clean pass, after the decode",
        f"{len(moves)}; {moves[-1]['ahead']:,}, {moves[-1]['rest']:,}, {moves[-1]['tail']:,}",
    )
    for name, what in (
        ("pause_s", "last clean pass ended to the target's first kernel"),
        ("total_s", "decision (before the clean pass) to the same"),
        ("send_s", "of the pause: the rest on its way"),
        ("decode_s", "beside it: decoding the last chunk at the source"),
        ("whole_s", "last clean pass ended to nothing being on its way"),
    ):
        times = [move[name] for move in moves]
        p50, p95 = quantile(times, 0.5), quantile(times, 0.95)
        report.row(what, f"p50 {1000 * p50:.1f} ms, p95 {1000 * p95:.1f} ms", name, {"p50": p50, "p95": p95})
    for rank, each in enumerate(said):
        quiet, busy = each["quiet_s"], each["busy_s"]
        text = f"p50 {1000 * quantile(busy, 0.5):.0f}, most {1000 * max(busy):.0f} ms; quiet {1000 * quantile(quiet, 0.5):.0f}, {1000 * max(quiet):.0f}"  # noqa: E501
        report.row(f"chunks of the other session, process {rank}", text, f"others {rank}", max(busy))


def _place(setting: Setting, rank: int) -> Setting:
    if setting.device.type != "cuda":
        return setting
    return replace(setting, device=torch.device("cuda", rank % torch.cuda.device_count()))


def _heard(connection: Connection, seconds: float) -> Any:
    if not connection.poll(seconds):
        raise TimeoutError(f"nothing heard for {seconds:.0f} s from a process of the move")
    return connection.recv()


def _worker(rank: int, setting: Setting, peer: Connection, result: Connection) -> None:
    torch.set_num_threads(1)
    if setting.device.type == "cuda":
        torch.cuda.set_device(setting.device)
    result.send(_Side(rank, setting, peer).play())


class _Side:
    """One process: its main thread owns the model, as a worker's device thread does."""

    def __init__(self, rank: int, setting: Setting, peer: Connection) -> None:
        self._rank, self._setting, self._peer = rank, setting, peer
        self._model = setting.model(slots=3)
        self._own = self._model.open(seed=rank, prompt="a quiet street at night")
        fill_window(self._model, [self._own])
        self._lane = ThreadPoolExecutor(1, initializer=self._on_device)
        self._moves: list[dict[str, float]] = []
        self._busy: list[float] = []
        self._began = 0.0

    def _on_device(self) -> None:
        if self._setting.device.type == "cuda":
            torch.cuda.set_device(self._setting.device)

    def play(self) -> dict[str, Any]:
        two = self._setting.device.type == "cuda" and torch.cuda.device_count() > 1
        transport: Transport = (
            NcclTransport(self._setting.device) if two and nccl_available() else TcpTransport("127.0.0.1")
        )
        link, opened_s = self._open(transport)
        quiet = [self._timed_chunk() for _ in range(_QUIET_CHUNKS)]
        guest = twin(self._model, self._own) if self._rank == 0 else None
        number, end = 0, time.monotonic() + _LIMIT_S
        most = _REHEARSED if self._setting.tiny else _MOVES
        while True:
            if number % 2 == self._rank:
                assert guest is not None
                over = number >= most or time.monotonic() > end
                self._peer.send(None if over else "go")
                if over:
                    break
                self._send(link, guest)
                guest = None
            else:
                if _heard(self._peer, _WAIT_S) is None:
                    break
                guest = self._receive(link)
            number += 1
        link.close()
        return {
            "transport": transport.name,
            "opened_s": opened_s,
            "moves": self._moves,
            "quiet_s": quiet,
            "busy_s": self._busy or quiet,
        }

    def _open(self, transport: Transport) -> tuple[Link, float]:
        """The first process invites."""
        names = ("a", "b") if self._rank == 0 else ("b", "a")
        if self._rank == 0:
            invitation = transport.invite()
            self._peer.send(invitation)
        else:
            invitation = _heard(self._peer, 4 * _WAIT_S)
        started = time.monotonic()
        return transport.open(invitation, *names, started + _WAIT_S), time.monotonic() - started

    def _timed_chunk(self) -> float:
        started = time.monotonic()
        chunk(self._model, [self._own], self._model.spec.rungs[0])
        return time.monotonic() - started

    def _send(self, link: Link, guest: State) -> None:
        """A chunk of the guest, and away with it."""
        model = self._model
        for _ in range(model.begin_chunk(guest, model.spec.rungs[0]) - 1):
            model.forward([guest])
        settle(self._setting.device)
        decided = time.monotonic()
        ahead, rest, tail = _shares(model, guest)
        self._peer.send((decided, ahead, rest, tail))
        memory = model.memory(guest)
        sending = self._lane.submit(link.send, _cut(memory, ahead), _TAG, decided + _WAIT_S)
        model.forward([guest])
        settle(self._setting.device)
        frozen = time.monotonic()
        sending.result(_WAIT_S)
        self._peer.send((frozen, model.denoised(guest).counters))
        sending = self._lane.submit(link.send, _cut(memory, rest), _TAG, frozen + _WAIT_S)
        model.decode(guest)
        decoded = time.monotonic()
        sending.result(_WAIT_S)
        self._lane.submit(link.send, _cut(memory, tail), _TAG, decoded + _WAIT_S).result(_WAIT_S)
        self._peer.send(decoded)
        model.close(guest)
        self._busy.append(self._timed_chunk())

    def _receive(self, link: Link) -> State:
        """The own session goes on until the guest's source is frozen."""
        model = self._model
        decided, ahead, rest, tail = _heard(self._peer, _WAIT_S)
        guest = model.reserve()
        settle(self._setting.device)  # a reserved slot is wiped, which must not happen to what arrives
        memory, deadline = model.memory(guest), time.monotonic() + _WAIT_S
        coming: Future = self._lane.submit(link.receive, _cut(memory, ahead), _TAG, deadline)
        if not self._own.passes:
            model.begin_chunk(self._own, model.spec.rungs[0])
        model.forward([self._own])  # what a step in mid-flight costs the guest
        settle(self._setting.device)
        coming.result(_WAIT_S)
        frozen, counters = _heard(self._peer, _WAIT_S)
        self._lane.submit(link.receive, _cut(memory, rest), _TAG, deadline).result(_WAIT_S)
        arrived = time.monotonic()
        coming = self._lane.submit(link.receive, _cut(memory, tail), _TAG, deadline)
        whole = self._lane.submit(time.monotonic)
        model.take_over(guest, counters)
        forwards = model.begin_chunk(guest, model.spec.rungs[0])
        model.forward([guest])
        first = time.monotonic()
        coming.result(_WAIT_S)
        decoded = _heard(self._peer, _WAIT_S)
        self._moves.append(
            {
                "pause_s": first - frozen,
                "total_s": first - decided,
                "decode_s": decoded - frozen,
                "send_s": arrived - frozen,
                "whole_s": whole.result(_WAIT_S) - frozen,
                "ahead": sum(e - s for s, e in ahead),
                "rest": sum(e - s for s, e in rest),
                "tail": sum(e - s for s, e in tail),
            }
        )
        for _ in range(forwards - 1):
            model.forward([guest])
        model.decode(guest)
        while self._own.passes:
            model.forward([self._own])
        model.decode(self._own)
        return guest


_TAG = bytes(TAG_BYTES)


def _shares(model: Wan, state: State) -> tuple[Spans, Spans, Spans]:
    """What of the state the rest of its chunk leaves alone, what its clean pass writes, what its decode."""
    shares: tuple[list[tuple[int, int]], ...] = ([], [], [])
    for name, part in model.parts(state).items():
        share = 2 if name == DECODER else 1 if name in {*state.writes, LATENTS} else 0
        shares[share].extend(part.spans)
    return shares[0], shares[1], shares[2]


def _cut(memory: torch.Tensor, spans: Spans) -> list[torch.Tensor]:
    return [memory[start:end] for start, end in spans]
