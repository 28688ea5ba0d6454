"""The beat of a worker: plan a batch, step it, hand finished frames on, again.

Runs on the device thread until `stop`. Everything it needs to know lies in the roster; what it makes goes
to `deliver`, called on the encode thread, while the next step already runs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field

from opentelemetry.context import Context

from services.worker import metrics
from services.worker.copies import FAILED, Copy
from services.worker.curve import Curve
from services.worker.encode import EncodeSettings
from services.worker.encoding import EncoderHangs, Encoding
from services.worker.errands import Errands
from services.worker.making import Made, Making, span_of
from services.worker.orders import Order
from services.worker.plan_batch import Candidate, may_begin, plan_batch
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.states import NoRoom, States
from services.worker.stepper import Stepper
from shared import telemetry

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
_SOON_S = 0.002


@dataclass(slots=True)
class Engine:
    """`run` on the device thread; `stop` and `errands.put` from anywhere. `curves`: by rung. `deliver` is
    called on the encode thread. Called on the device thread: `on_denoised`, when a frozen copy's chunk is
    decoded next; `on_boundary`, once it has no chunk under way there; those made may still be on their way to
    the log.
    """

    runner: Runner
    states: States
    roster: Roster
    encode_settings: InitVar[EncodeSettings]
    deliver: InitVar[Callable[[Made], None]]
    curves: Mapping[str, Curve]
    keep_latents: bool = False
    """Hand each chunk's on with it."""
    on_denoised: Callable[[Copy], None] = lambda _: None
    on_boundary: Callable[[Copy], None] = lambda _: None
    errands: Errands = field(init=False)
    stepper: Stepper = field(init=False)
    encoding: Encoding = field(init=False)
    _chunks: dict[Copy, Making] = field(default_factory=dict)
    _stopping: bool = False

    def __post_init__(self, encode_settings: EncodeSettings, deliver: Callable[[Made], None]) -> None:
        self.states.shelf.under_way = self._chunks
        self.errands = Errands(self.roster.changed)
        self.stepper = Stepper(self.runner, self.errands)
        self.encoding = Encoding(self.runner.spec.fps, encode_settings, deliver, self._fail)

    def run(self) -> None:
        """Until told to stop and the chunks in hand are finished. Raises `EncoderHangs`."""
        try:
            self._beat()
        except EncoderHangs:
            self.encoding.abandon()
            raise
        finally:
            self.errands.end()
        self.encoding.finish()

    def _beat(self) -> None:
        while True:
            stopping = self._stopping
            self.errands.run()
            self.states.shelf.make_ready()
            self._fetch_ahead()
            self._finish_denoised()
            self._tell_boundaries()
            if orders := self._next_batch():
                self._step(orders)
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
        return self.errands.due or bool(self.roster.transit.at_boundary(self._chunks) or self._decodable())

    def _tell_boundaries(self) -> None:
        for copy in self.roster.transit.at_boundary(self._chunks):
            self.roster.transit.boundary_told(copy)
            self.on_boundary(copy)

    def _forget(self) -> None:
        """Free what belongs to copies that were dropped, ended or begun anew."""
        for copy, chunk in list(self._chunks.items()):
            if chunk.order.stale:
                chunk.span.end()
                del self._chunks[copy]
        self.states.forget()

    def _step(self, orders: list[Order]) -> None:
        """One step of every order's chunk."""
        chunks: list[Making] = []
        for order in orders:
            try:
                with self._blaming(order):
                    chunks.append(self._chunks.get(order.copy) or self._begin(order))
            except NoRoom:
                self.roster.put_back(order)
        if chunks:
            self._forward(chunks)
        self._finish_denoised()

    @contextlib.contextmanager
    def _blaming(self, order: Order) -> Iterator[None]:
        """What the model raises ends this copy, never the worker."""
        try:
            yield
        except (NoRoom, EncoderHangs):
            raise
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self._fail(order, error)

    def _begin(self, order: Order) -> Making:
        state = self.states.of(order)
        chunk = Making(order, state, span_of(order))
        self._chunks[order.copy] = chunk
        chunk.steps_left = self.runner.begin_chunk(state, order.rung)
        return chunk

    def _forward(self, chunks: list[Making]) -> None:
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

    def _advance(self, chunks: list[Making]) -> None:
        links = [link for chunk in chunks for link in telemetry.session_links(chunk.order.traceparent)]
        with telemetry.tracer.start_as_current_span(
            "worker.batch", context=Context(), links=links, attributes={"rows": len(chunks)}
        ):
            step_s = self.stepper.step([chunk.state for chunk in chunks])
        metrics.batch_rows.observe(len(chunks))
        for chunk in chunks:
            chunk.forward_s += step_s
            chunk.steps_left -= 1

    def _decodable(self) -> list[Making]:
        """Those whose forwards are over. What decoding a copy's that came by a move needs may come later."""
        chunks = [chunk for chunk in self._chunks.values() if not chunk.steps_left]
        return [chunk for chunk in chunks if not chunk.order.copy.ahead and not chunk.order.stale]

    def _finish_denoised(self) -> None:
        for chunk in self._decodable():
            with self._blaming(chunk.order):
                self._finish(chunk)

    def _finish(self, chunk: Making) -> None:
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
        self.encoding.put(chunk, frames, started)

    def _fail(self, order: Order, error: Exception) -> None:
        logger.error("chunk %d failed", order.index, exc_info=error, extra={"session": order.copy.session})
        if not order.stale:
            self.roster.end(order.copy, FAILED, f"{type(error).__name__}: {error}"[:500])
