"""The beat of a worker: plan a batch, step it, hand finished frames on, again.

Runs on the device thread until `stop`. Everything it needs to know lies in the roster; what it makes goes
to `deliver`, called on the encode thread, while the next step already runs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, overload

from opentelemetry.context import Context
from opentelemetry.trace import Span

from services.worker import encode, metrics
from services.worker.copies import FAILED, Copy, Order
from services.worker.curve import Curve
from services.worker.errands import Errands, Later
from services.worker.models.protocol import PastChunk, State
from services.worker.plan_batch import Candidate, may_begin, plan_batch
from services.worker.roster import Roster
from services.worker.runner import Runner, Step
from services.worker.states import NoRoom, States
from shared import telemetry
from shared.contracts.stream import ChunkTimings

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FRAMES_WAITING = 4  # chunks decoded but not encoded; beyond, the device waits
ENCODE_LIMIT_S = 20.0  # for that; an encoder takes a fraction of a second
_LOOK_AGAIN_S = 1.0
_SOON_S = 0.002
_SURE, _GROWTH = 0.8, 1.05


class EncoderHangs(RuntimeError):
    """The worker is of no use to any of its sessions: it ends, and they go on elsewhere."""


class Made(NamedTuple):
    """An encoded chunk on its way to the log."""

    order: Order
    media: encode.Media
    timings: ChunkTimings
    span: Span
    latents: PastChunk | None = None


@dataclass(slots=True)
class _Chunk:
    """One chunk under way. `state` None: it is off the device, whose place may be somebody else's by the time
    it is encoded.
    """

    order: Order
    state: State
    span: Span
    steps_left: int = 0
    forward_s: float = 0.0
    decode_s: float = 0.0
    latents: PastChunk | None = None


@dataclass(slots=True)
class Engine:
    """`run` on the device thread; `stop` and `errand` from anywhere. `curves`: by rung. Called on the device
    thread: `on_denoised`, when a frozen copy's chunk is decoded next; `on_boundary`, once it has no chunk
    under way there; those made may still be on their way to the log.
    """

    runner: Runner
    states: States
    roster: Roster
    encode_settings: encode.EncodeSettings
    deliver: Callable[[Made], None]
    curves: Mapping[str, Curve]
    keep_latents: bool = False
    """Hand each chunk's on with it."""
    on_denoised: Callable[[Copy], None] = lambda _: None
    on_boundary: Callable[[Copy], None] = lambda _: None
    errands: Errands = field(init=False)
    _chunks: dict[Copy, _Chunk] = field(default_factory=dict)
    _step_s: dict[int, float] = field(default_factory=dict)
    """By rows: hardly less than steps took lately."""
    _stopping: bool = False
    _room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_FRAMES_WAITING))

    def __post_init__(self) -> None:
        self.states.shelf.under_way = self._chunks
        self.errands = Errands(self.roster.changed)

    @overload
    def errand(self, work: Callable[[], Later[T]]) -> Future[T]: ...
    @overload
    def errand(self, work: Callable[[], T], *, soon: bool = False) -> Future[T]: ...
    def errand(self, work: Callable[[], Any], *, soon: bool = False) -> Future[Any]:
        """From any thread: `work` on the device thread between two steps, in order; `soon`: also while the
        device is at one, which `work` must leave alone. Cancelled if the engine has ended. Raises
        `RuntimeError` if too many wait.
        """
        return self.errands.put(work, soon=soon)

    def run(self) -> None:
        """Until told to stop and the chunks in hand are finished. Raises `EncoderHangs`."""
        encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        try:
            self._beat(encoder)
        except EncoderHangs:
            encoder.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            self.errands.end()
        encoder.shutdown()

    def _beat(self, encoder: ThreadPoolExecutor) -> None:
        while True:
            stopping = self._stopping
            self.errands.run()
            self.states.shelf.make_ready()
            self._fetch_ahead()
            self._finish_denoised(encoder)
            self._tell_boundaries()
            if orders := self._next_batch():
                self._step(orders, encoder)
            elif stopping:
                break

    def stop(self) -> None:
        """Begin no further chunk."""
        with self.roster.changed:
            self._stopping = True
            self.roster.changed.notify_all()

    def abandon(self) -> None:
        """Also leave the chunks in hand: the time for them is over."""
        for copy in self.roster.copies():
            self.roster.remove(copy)

    def _next_batch(self) -> list[Order]:
        """The orders to step now. Without any, waits for a change once, for the caller to look again."""
        with self.roster.changed:
            self._forget()
            copies = {copy.key: copy for copy in self.roster.copies()}
            under_way = {copy: chunk.order for copy, chunk in self._chunks.items()}
            candidates = [self._candidate(copy, under_way.get(copy)) for copy in copies.values()]
            beginnings = 0 if self._stopping else self.states.tiers.slots - len(under_way)
            chosen = [copies[key] for key in plan_batch(candidates, self.curves, beginnings)]
            if not chosen and not self._stopping and not self._asked_for():
                self.roster.changed.wait(_SOON_S if self.errands.pending else _LOOK_AGAIN_S)
            return [under_way.get(copy) or self.roster.begin(copy) for copy in chosen]

    def _candidate(self, copy: Copy, stepping: Order | None) -> Candidate:
        """One without a place on the device, where none can be had, has to wait; so has one whose former
        state a move still holds, and one whose state is still coming, as long as there are others to step. A
        chunk without steps left waits for what its decode needs.
        """
        candidate, states = self.roster.candidate(copy, stepping), self.states
        placed = stepping is not None or states.has_place(copy) or states.shelf.room() > 0
        coming = bool(self._chunks) and states.coming(copy)
        if stepping is not None and not self._chunks[copy].steps_left:
            return candidate._replace(stepping=False, held=True)
        waiting = not placed or coming or states.outdated(copy)
        return candidate._replace(held=True) if waiting else candidate

    def _fetch_ahead(self) -> None:
        """While others are stepped: the states of suspended copies whose next chunk may begin."""
        if not self._chunks or self._stopping:
            return
        with self.roster.changed:
            copies = [copy for copy in self.roster.copies() if copy not in self._chunks]
            wanted = [copy for copy in copies if may_begin(self.roster.candidate(copy, None))]
        for copy in wanted:
            self.states.fetch_ahead(copy)

    def _asked_for(self) -> bool:
        """Whether somebody waits for this thread to look, chunks or not."""
        return self.errands.due or bool(self.roster.at_boundary(self._chunks) or self._decodable())

    def _tell_boundaries(self) -> None:
        for copy in self.roster.at_boundary(self._chunks):
            self.roster.boundary_told(copy)
            self.on_boundary(copy)

    def _forget(self) -> None:
        """Free what belongs to copies that were dropped, ended or begun anew."""
        for copy, chunk in list(self._chunks.items()):
            if chunk.order.stale:
                chunk.span.end()
                del self._chunks[copy]
        self.states.forget()

    def _step(self, orders: list[Order], encoder: ThreadPoolExecutor) -> None:
        """One step of every order's chunk."""
        chunks: list[_Chunk] = []
        for order in orders:
            try:
                with self._blaming(order):
                    chunks.append(self._chunks.get(order.copy) or self._begin(order))
            except NoRoom:
                self.roster.put_back(order)
        if chunks:
            self._forward(chunks)
        self._finish_denoised(encoder)

    @contextlib.contextmanager
    def _blaming(self, order: Order) -> Iterator[None]:
        """What the model raises ends this copy, never the worker."""
        try:
            yield
        except (NoRoom, EncoderHangs):
            raise
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self._fail(order, error)

    def _begin(self, order: Order) -> _Chunk:
        state = self.states.of(order)
        span = telemetry.tracer.start_span(
            "worker.chunk",
            context=Context(),
            links=telemetry.session_links(order.traceparent),
            attributes={"session": order.copy.session, "index": order.index},
        )
        chunk = _Chunk(order, state, span)
        self._chunks[order.copy] = chunk
        chunk.steps_left = self.runner.begin_chunk(state, order.rung)
        return chunk

    def _forward(self, chunks: list[_Chunk]) -> None:
        """One step together. If the model can't, each alone: only those that can't either fail."""
        try:
            self._advance(chunks)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            if len(chunks) == 1:
                self._fail(chunks[0].order, error)
                return
            logger.warning("a step of %d rows failed, stepping each alone: %s", len(chunks), error)
            for chunk in chunks:
                self._forward([chunk])

    def _advance(self, chunks: list[_Chunk]) -> None:
        links = [link for chunk in chunks for link in telemetry.session_links(chunk.order.traceparent)]
        with telemetry.tracer.start_as_current_span(
            "worker.batch", context=Context(), links=links, attributes={"rows": len(chunks)}
        ):
            step_s = self._run_step([chunk.state for chunk in chunks])
        metrics.batch_rows.observe(len(chunks))
        for chunk in chunks:
            chunk.forward_s += step_s
            chunk.steps_left -= 1

    def _run_step(self, states: list[State]) -> float:
        """Errands that mind no step are run beside it, in the time that such steps are sure to take."""
        rows, started = len(states), time.perf_counter()
        if (step := self.runner.launch(states)) is not None:
            self._run_beside(step, started + _SURE * self._step_s.get(rows, 0.0))
            step.synchronize()
        step_s = time.perf_counter() - started
        self._step_s[rows] = min(step_s, _GROWTH * self._step_s.get(rows, step_s))
        return step_s

    def _run_beside(self, step: Step, until: float) -> None:
        while (left_s := until - time.perf_counter()) > 0 and not step.query():
            with self.roster.changed:
                if not self.errands.due_soon:
                    self.roster.changed.wait(left_s)
            self.errands.run_soon()

    def _decodable(self) -> list[_Chunk]:
        """Those whose forwards are over. What decoding a copy's that came by a move needs may come later."""
        chunks = [chunk for chunk in self._chunks.values() if not chunk.steps_left]
        return [chunk for chunk in chunks if not chunk.order.copy.ahead and not chunk.order.stale]

    def _finish_denoised(self, encoder: ThreadPoolExecutor) -> None:
        for chunk in self._decodable():
            with self._blaming(chunk.order):
                self._finish(chunk, encoder)

    def _finish(self, chunk: _Chunk, encoder: ThreadPoolExecutor) -> None:
        copy, started = chunk.order.copy, time.perf_counter()
        if copy.frozen:
            self.on_denoised(copy)
        self.states.copy_behind(copy)
        frames = self.runner.decode_later(chunk.state)
        if self.keep_latents:
            chunk.latents = self.runner.latents(chunk.state)
        del self._chunks[copy]
        self.states.copy_behind(copy)
        chunk.state = None
        if not self._room.acquire(timeout=ENCODE_LIMIT_S):
            raise EncoderHangs(f"no chunk was encoded for {ENCODE_LIMIT_S:.0f} s, and as many wait as may")
        encoder.submit(self._encode, chunk, frames, started)

    def _encode(self, chunk: _Chunk, frames: Callable[[], encode.Frames], decoding_since: float) -> None:
        """On the encode thread. Frames may still be on their way from the device, which goes on."""
        try:
            arrived = frames()
            started = time.perf_counter()
            chunk.decode_s = started - decoding_since
            media = encode.encode(arrived, self.runner.spec.fps, self.encode_settings)
            encode_s = time.perf_counter() - started
            self.deliver(Made(chunk.order, media, _timings(chunk, encode_s), chunk.span, chunk.latents))
        except Exception as error:  # noqa: BLE001 one chunk fails, not the thread
            chunk.span.end()
            self._fail(chunk.order, error)
        finally:
            self._room.release()

    def _fail(self, order: Order, error: Exception) -> None:
        logger.error("chunk %d failed", order.index, exc_info=error, extra={"session": order.copy.session})
        if not order.stale:
            self.roster.end(order.copy, FAILED, f"{type(error).__name__}: {error}"[:500])


def _timings(chunk: _Chunk, encode_s: float) -> ChunkTimings:
    observed = {
        "wait": chunk.order.due_to_start_s,
        "forward": chunk.forward_s,
        "decode": chunk.decode_s,
        "encode": encode_s,
    }
    for stage, seconds in observed.items():
        metrics.stage_seconds.labels(stage).observe(seconds)
    return ChunkTimings(
        chunk.order.due_to_start_s, chunk.forward_s, chunk.decode_s, encode_s, made_at=time.time()
    )
