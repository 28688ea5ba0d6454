"""A session that goes back and forth between two processes, each playing a session of its own beside it, over
the workers' own links: CUDA IPC or NCCL between two GPUs, else TCP.

Somewhere in a step its source is told to let it go. What the chunk under way leaves alone goes ahead beside
the steps; after the next one it is frozen, and what is left goes. The target, at a step of its own session
until shortly before, goes on with the chunk. This is the data's way alone: what the protocol and the log add
is measured with whole workers.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.gpu.errors import twin
from bench.gpu.lab import Setting, chunk, fill_window, settle
from bench.gpu.report import Report, quantile
from services.worker import expecting
from services.worker.expecting import Spell
from services.worker.models.protocol import Part
from services.worker.models.wan.session import State
from services.worker.moving.patience import MAX_ROUNDS
from services.worker.transfer.choose import wished
from services.worker.transfer.cuda_lending import cuda_ipc
from services.worker.transfer.link import TAG_BYTES, Link, Transport
from services.worker.transfer.manifest import merge
from services.worker.transfer.nccl import NcclTransport, nccl_available
from services.worker.transfer.tcp import TcpTransport

_MOVES, _REHEARSED, _QUIET_CHUNKS = 200, 6, 8
_LIMIT_S = 100.0  # fewer moves, if they take longer
_WAIT_S = 60.0
_LOOK_S = 0.00005
_SWITCH_S = 0.0005  # as in a worker: its threads take turns so often
_MOST_STEPS = 5  # of the guest, before it is sent back
_REST_BYTES = 128 << 20  # more goes in another round
_NEARLY_S = 0.008  # so soon before the target's device is free a freeze is of use
_ASSUMED_BYTES_PER_S = 50e9  # before the first move
_TAG = bytes(TAG_BYTES)

Spans = Sequence[tuple[int, int]]


class _Ahead(NamedTuple):
    """A pre-copy. `decided`: when the source was told to let it go, by the one clock of both processes."""

    decided: float
    spans: Spans


class _Rest(NamedTuple):
    """`rounds`: of pre-copies, which took `ahead_s` for `ahead_bytes`. `left`: forwards still to come."""

    frozen: float
    spans: Spans
    counters: Any
    left: int
    rounds: int
    ahead_bytes: int
    ahead_s: float


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
    sizes = [sorted(move[name] for move in moves)[len(moves) // 2] for name in ("ahead_bytes", "rest_bytes")]
    report.row("moves; bytes ahead, in the pause, medians", f"{len(moves)}; {sizes[0]:,}, {sizes[1]:,}")
    rates = [move["ahead_bytes"] / move["ahead_s"] / 1e9 for move in moves]
    slow, fast = quantile(rates, 0.05), quantile(rates, 0.5)
    report.row(
        "pre-copy's rate, GB/s", f"p50 {fast:.0f}, p5 {slow:.0f}", "ahead_gb_s", {"p50": fast, "p5": slow}
    )
    for name, what in (
        ("able_s", "pause: frozen to the target able to go on"),
        ("sent_s", "of it: the rest on its way"),
        ("first_s", "frozen to the guest's step told the device, once the other's is over"),
        ("total_s", "decision (anywhere in a step) to the target able to go on"),
        ("going_s", "decision to the guest's step told the device"),
        ("ahead_s", "pre-copies"),
    ):
        times = [move[name] for move in moves]
        p50, p95 = quantile(times, 0.5), quantile(times, 0.95)
        report.row(what, f"p50 {1000 * p50:.1f} ms, p95 {1000 * p95:.1f} ms", name, {"p50": p50, "p95": p95})
    for title, key in (("rounds of pre-copies", "rounds"), ("forwards left at the freeze", "left")):
        counts = {n: sum(move[key] == n for move in moves) for n in sorted({m[key] for m in moves})}
        report.row(f"moves by {title}", ", ".join(f"{n}: {c}" for n, c in counts.items()), key, counts)
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
    sys.setswitchinterval(_SWITCH_S)
    if setting.device.type == "cuda":
        torch.cuda.set_device(setting.device)
    result.send(_Side(rank, setting, peer).play())


@dataclass
class _Coming:
    """What has been heard of a move to here. `spell`: when no step of the own session begins."""

    ahead: list[_Ahead] = field(default_factory=list)
    spell: Spell = expecting.NEVER
    last: Future[float] | None = None
    rest: _Rest | None = None
    all_here: Future[float] | None = None
    able: float = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second, of the pre-copies."""
        return self.rest.ahead_bytes / self.rest.ahead_s if self.rest is not None else _ASSUMED_BYTES_PER_S


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
        self._chance = random.Random(rank)
        self._step_s = self._began = 0.0
        self._bytes_per_s = _ASSUMED_BYTES_PER_S

    def _on_device(self) -> None:
        if self._setting.device.type == "cuda":
            torch.cuda.set_device(self._setting.device)

    def play(self) -> dict[str, Any]:
        transport = _transport(self._setting.device)
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
        """Of the own session, which may be in the midst of one."""
        self._end_chunk(self._own)
        started = time.monotonic()
        chunk(self._model, [self._own], self._model.spec.rungs[0])
        return time.monotonic() - started

    def _end_chunk(self, state: State) -> None:
        while state.latent is not None:
            self._step(state)

    def _step(self, state: State, beside: Callable[[float], None] = lambda _: None) -> None:
        """One, as the engine makes it; `beside` is called with the time of its beginning while it is under
        way, on a CPU after it.
        """
        model, started = self._model, time.monotonic()
        self._began = started
        if state.latent is None:
            model.begin_chunk(state, model.spec.rungs[0])
        model.forward([state])
        over = self._told()
        beside(started)
        while not over():
            time.sleep(_LOOK_S)
            beside(started)
        self._step_s = time.monotonic() - started
        if state.latent is not None and not state.decoded and model.pictures_final(state):
            model.decode_later(state)

    def _told(self) -> Callable[[], bool]:
        """Whether the device has done all it was told up to now."""
        if self._setting.device.type != "cuda":
            return lambda: True
        event = torch.cuda.current_stream(self._setting.device).record_event()
        return event.query

    # Away.

    def _send(self, link: Link, guest: State) -> None:
        model = self._model
        for _ in range(self._chance.randrange(_MOST_STEPS)):
            self._step(guest)
        memory, has = model.memory(guest), dict[str, int]()
        decided, began, free_at = 0.0, time.monotonic(), 0.0
        sending: Future[float] | None = None
        rounds = answered = ahead_bytes = 0
        ahead_s, wait_s = 0.0, self._chance.random() * self._step_s

        def precopy(parts: dict[str, Part]) -> None:
            nonlocal sending, rounds, ahead_bytes, began
            spans = _spans(parts)
            began = time.monotonic()
            self._peer.send(_Ahead(decided, spans))
            sending = self._lane.submit(_timed, link.send, _cut(memory, spans))
            has.update({name: part.version for name, part in parts.items()})
            rounds, ahead_bytes = rounds + 1, ahead_bytes + _bytes(spans)

        def decide(step_began: float) -> None:
            nonlocal decided
            if not decided and time.monotonic() - step_began >= wait_s:
                decided = time.monotonic()
                unsettled = model.unsettled(guest)
                precopy({n: part for n, part in model.parts(guest).items() if n not in unsettled})

        self._step(guest, decide)
        while True:
            while self._peer.poll():
                free_at, answered = self._peer.recv(), answered + 1
            free = answered == rounds and time.monotonic() >= free_at - _NEARLY_S
            if sending is not None and sending.done() and not guest.decoded and free:
                told = model.mid_chunk(guest) if guest.latent is not None else None
                ahead_s, began = ahead_s + sending.result() - began, sending.result()
                void = told.void if told is not None else frozenset()
                parts = {
                    n: p for n, p in model.parts(guest).items() if n not in void and has.get(n) != p.version
                }
                if rounds == MAX_ROUNDS or _bytes(_spans(parts)) <= _REST_BYTES:
                    break
                precopy(parts)
            self._step(guest, decide)
        frozen, spans = time.monotonic(), _spans(parts)
        counters = told.counters if told is not None else model.counters(guest)
        self._peer.send(_Rest(frozen, spans, counters, len(guest.passes), rounds, ahead_bytes, ahead_s))
        self._lane.submit(link.send, _cut(memory, spans), _TAG, frozen + _WAIT_S).result(_WAIT_S)
        model.close(guest)
        self._busy.append(self._timed_chunk())

    # Here.

    def _receive(self, link: Link) -> State:
        """The own session goes on until the guest is here."""
        model, coming = self._model, _Coming()
        guest = model.reserve()
        settle(self._setting.device)
        memory = model.memory(guest)

        def look(_: float) -> None:
            while coming.rest is None and self._peer.poll():
                heard = self._peer.recv()
                arriving = self._lane.submit(_timed, link.receive, _cut(memory, heard.spans))
                if isinstance(heard, _Rest):
                    coming.rest, coming.all_here = heard, arriving
                    model.take_over(guest, heard.counters)
                else:
                    coming.ahead.append(heard)
                    coming.last, now = arriving, time.monotonic()
                    takes_s = _bytes(heard.spans) / self._bytes_per_s
                    coming.spell = expecting.while_it_comes(now, takes_s, self._step_s)
                    self._peer.send(self._began + self._step_s)
            if coming.last is not None and coming.last.done():
                coming.spell = expecting.while_it_comes(coming.last.result(), 0.0, self._step_s)
                coming.last = None
            if coming.all_here is not None and coming.all_here.done() and not coming.able:
                coming.able = time.monotonic()

        while not coming.able:
            look(0.0)
            if expecting.wait_s([coming.spell], time.monotonic()) > 0:
                time.sleep(_LOOK_S)
            else:
                self._step(self._own, look)
        self._bytes_per_s = coming.rate
        self._step(guest, lambda began: self._note(coming, began))
        return guest

    def _note(self, coming: _Coming, _began: float) -> None:
        """The guest's first step here was told."""
        if coming.rest is None or coming.all_here is None:
            return
        rest, first, decided = coming.rest, time.monotonic(), coming.ahead[0].decided
        self._moves.append(
            {
                "able_s": coming.able - rest.frozen,
                "sent_s": coming.all_here.result() - rest.frozen,
                "first_s": first - rest.frozen,
                "total_s": coming.able - decided,
                "going_s": first - decided,
                "ahead_s": rest.ahead_s,
                "ahead_bytes": rest.ahead_bytes,
                "rest_bytes": _bytes(rest.spans),
                "rounds": rest.rounds,
                "left": rest.left,
            }
        )
        coming.rest = None


def _transport(device: torch.device) -> Transport:
    """As workers choose it, by their own setting: TURBOSERVE_WORKER_TRANSPORTS="nccl" leaves CUDA IPC out."""
    may = wished(os.environ.get("TURBOSERVE_WORKER_TRANSPORTS", ""))
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        if "ipc" in may and (ipc := cuda_ipc(str(device))) is not None:
            return ipc
        if "nccl" in may and nccl_available():
            return NcclTransport(device)
    return TcpTransport("127.0.0.1")


def _timed(work: Callable[..., None], buffers: list[torch.Tensor]) -> float:
    """When it was over."""
    work(buffers, _TAG, time.monotonic() + _WAIT_S)
    return time.monotonic()


def _spans(parts: dict[str, Part]) -> Spans:
    return merge(span for part in parts.values() for span in part.spans)


def _bytes(spans: Spans) -> int:
    return sum(end - start for start, end in spans)


def _cut(memory: torch.Tensor, spans: Spans) -> list[torch.Tensor]:
    return [memory[start:end] for start, end in spans]
