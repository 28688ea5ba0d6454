"""The beat of a worker: plan a batch, step it, hand finished frames on, again.

Runs on the device thread until `stop`. Everything it needs to know lies in the roster; what it makes goes
to `deliver`, called on an encode thread, while the next step already runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from functools import partial

from services.worker import metrics
from services.worker.copies import FAILED, Copy
from services.worker.crossings import Crossings
from services.worker.curve import Curve
from services.worker.encode import EncodeSettings
from services.worker.encoding import EncoderHangs, Encoding
from services.worker.errands import Errands
from services.worker.making import Made, Making, span_of
from services.worker.orders import Order
from services.worker.plan_batch import may_begin
from services.worker.planning import Planning
from services.worker.preparing import Preparing
from services.worker.prompting import Prompting
from services.worker.restarting import Restarting
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.showing import Showing
from services.worker.states import NoRoom, States
from services.worker.stepper import Stepper

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Engine:
    """`run` on the device thread; `stop` and `errands.put` from anywhere. `curves`: by rung. `deliver` is
    called on an encode thread.
    """

    runner: Runner
    states: States
    roster: Roster
    encode_settings: InitVar[EncodeSettings]
    deliver: InitVar[Callable[[Made], None]]
    curves: Mapping[str, Curve]
    keep_latents: bool = False
    """Hand each chunk's on with it."""
    errands: Errands = field(init=False)
    stepper: Stepper = field(init=False)
    encoding: Encoding = field(init=False)
    showing: Showing = field(init=False)
    restarting: Restarting = field(init=False)
    preparing: Preparing = field(init=False)
    prompting: Prompting = field(init=False)
    planning: Planning = field(init=False)
    crossings: Crossings = field(init=False)
    _chunks: dict[Copy, Making] = field(default_factory=dict)
    _stopping: bool = False

    def __post_init__(self, encode_settings: EncodeSettings, deliver: Callable[[Made], None]) -> None:
        self.states.shelf.under_way = self._chunks
        self.errands = Errands(self.roster.changed)
        self.crossings = Crossings(self.runner, self.states, self.roster, self._chunks)
        pool = self.states.tiers.pool
        self.stepper = Stepper(self.runner, self.errands, self._beside, lambda: pool.waiting)
        self.restarting = Restarting(self.runner, self.curves)
        costs, of_copies = self.restarting.costs, (self.runner, self.states, self.roster)
        self.preparing = Preparing(*of_copies, costs, self.stepper, self.crossings, self._end)
        self.prompting = Prompting(*of_copies, costs, self.preparing)
        fps, took = self.runner.spec.fps, costs.learn_after
        self.encoding = Encoding(fps, encode_settings, deliver, self._fail, took)
        self.showing = Showing(*of_copies, self.encoding, self._chunks)
        self.planning = Planning(
            self.states,
            self.roster,
            self.errands,
            self.restarting,
            self.crossings,
            self.showing,
            self.preparing,
            self._chunks,
        )

    def run(self) -> None:
        """Until told to stop and the chunks in hand are finished. Raises `EncoderHangs`."""
        try:
            self._beat()
        except EncoderHangs:
            self.encoding.abandon()
            raise
        finally:
            self.errands.end()
            self.preparing.give_up()
        self.encoding.finish()

    def _beat(self) -> None:
        while True:
            stopping = self._stopping
            self.states.shelf.awaited.clear()
            self.errands.run()
            self.states.shelf.make_ready()
            self._begin_again()
            self._show()
            self._beside()
            if not self._chunks and not stopping:
                self.prompting.take_one()
            with self.roster.changed:
                self._forget()
                plan = self.planning.next(stopping=stopping)
            if plan.piece:
                self.preparing.go_on()
            elif plan.batch:
                self._step(plan.batch)
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

    def _beside(self) -> None:
        """While the device is at a step, too."""
        self.crossings.tell()
        self.states.pump()
        self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        """The states of suspended copies whose next chunk may begin."""
        kept = self.states.shelf.kept
        suspended = [copy for copy in kept if copy.playable and not kept[copy].hot]
        if not suspended or self._stopping:
            return
        with self.roster.changed:
            wanted = [copy for copy in suspended if may_begin(self.roster.candidate(copy, None))]
        for copy in wanted:
            self.states.fetch_ahead(copy)

    def _forget(self) -> None:
        """Free what belongs to copies that were dropped, ended or begun anew."""
        for copy, chunk in list(self._chunks.items()):
            if chunk.order.stale:
                if not chunk.shown:
                    chunk.span.end()
                del self._chunks[copy]
        self.preparing.forget()
        self.states.forget()

    def _step(self, batch: list[Order]) -> None:
        """One step of every order's chunk."""
        chunks: list[Making] = []
        for order in batch:
            try:
                with self._blaming(order):
                    chunks += self._begun(order)
            except NoRoom:
                self.roster.put_back(order)
        if chunks:
            self._forward(chunks)
        self.crossings.tell()
        self._begin_again()
        self._show()

    @contextlib.contextmanager
    def _blaming(self, order: Order) -> Iterator[None]:
        """What the model raises ends this copy, never the worker."""
        try:
            yield
        except (NoRoom, EncoderHangs):
            raise
        except Exception as error:  # noqa: BLE001 a model may raise anything
            self._fail(order, error)

    def _begun(self, order: Order) -> list[Making]:
        """Its chunk under way; none, if something long comes before it. Raises `NoRoom`."""
        if (chunk := self._chunks.get(order.copy)) is not None:
            return [chunk]
        if self.preparing.comes_before(order):
            self.roster.put_back(order)
            return []
        return [self._begin(order)]

    def _begin(self, order: Order) -> Making:
        new_prompt = self.states.shows_another(order)
        state = self.states.of(order)
        chunk = Making(order, state, span_of(order), new_prompt)
        self._chunks[order.copy] = chunk
        chunk.steps = chunk.steps_left = self.runner.begin_chunk(state, order.rung)
        return chunk

    def _begin_again(self) -> None:
        """The chunks under way that a new prompt is to show in."""
        for chunk in self._chunks.values():
            if chunk.parked or (order := self.roster.begin_again(chunk.order)) is None:
                continue
            chunk.order, chunk.again, chunk.new_prompt = order, True, True
            metrics.chunk_restarts.inc()
            with self._blaming(order):
                chunk.state = self.states.of(order)
                chunk.steps = chunk.steps_left = self.runner.begin_chunk(chunk.state, order.rung)

    def _forward(self, chunks: list[Making]) -> None:
        """One step together. If the model can't, each alone: only those that can't either fail. One that was
        told to be between two steps meanwhile stays there.
        """
        try:
            self._advance(chunks)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            if len(chunks) == 1:
                self._fail(chunks[0].order, error)
                return
            logger.warning("a step of %d rows failed, stepping each alone: %s", len(chunks), error)
            for chunk in chunks:
                if not chunk.parked:
                    self._forward([chunk])

    def _advance(self, chunks: list[Making]) -> None:
        self.crossings.begin_step(chunks)
        try:
            traceparents = [chunk.order.traceparent for chunk in chunks]
            states = [chunk.state for chunk in chunks]
            step_s = self.stepper.step(states, traceparents, partial(self._copy_ahead, chunks))
        except Exception:
            for chunk in chunks:
                self.states.not_stepped(chunk.order.copy)
            raise
        finally:
            self.crossings.end_step()
        self.restarting.learn_step(chunks, step_s)
        for chunk in chunks:
            chunk.stepped(step_s)

    def _copy_ahead(self, chunks: list[Making]) -> None:
        """Their step was just told the device."""
        for chunk in chunks:
            self.states.copy_ahead(chunk.order.copy)

    def _show(self) -> None:
        """Hand on the pictures that are final, and be done with the chunks that have no step left."""
        for chunk in list(self._chunks.values()):
            with self._blaming(chunk.order):
                self.showing.show(chunk, keep_latents=self.keep_latents)

    def _fail(self, order: Order, error: Exception) -> None:
        logger.error("chunk %d failed", order.index, exc_info=error, extra={"session": order.copy.session})
        if not order.stale:
            self._end(order.copy, error)

    def _end(self, copy: Copy, error: Exception) -> None:
        self.roster.end(copy, FAILED, f"{type(error).__name__}: {error}"[:500])
