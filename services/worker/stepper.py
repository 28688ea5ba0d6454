"""One step on the device, and what may be done beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opentelemetry.context import Context

from services.worker import metrics
from services.worker.errands import Errands
from services.worker.models.protocol import State
from services.worker.runner import Runner, Step
from shared import telemetry

_SURE, _GROWTH = 0.8, 1.05
_LOOK_S = 0.0001
_OFTEN_S = 0.001


@dataclass(slots=True)
class Stepper:
    """The engine's, on its thread. Errands that mind no step are run beside it, to its very end; `beside` is
    called then too, every millisecond while `often` says so.
    """

    runner: Runner
    errands: Errands
    beside: Callable[[], None] = lambda: None
    often: Callable[[], bool] = lambda: False
    over_at: float = 0.0
    """By the monotonic clock: when the last step begun is over, or was, as far as can be foreseen."""
    _step_s: dict[int, float] = field(default_factory=dict)
    """By rows: hardly less than steps took lately."""
    _piece_s: float = 0.0

    def step(
        self,
        states: list[State],
        traceparents: Sequence[str] = (),
        launched: Callable[[], None] = lambda: None,
    ) -> float:
        """One of each, in a span that links these traces. Returns the seconds it took. `launched` is called
        once it was told the device, and before it is over. Raises what the model does.
        """
        links = [link for each in traceparents for link in telemetry.session_links(each)]
        attributes = {"rows": len(states)}
        with telemetry.tracer.start_as_current_span(
            "worker.batch", context=Context(), links=links, attributes=attributes
        ):
            step_s = self._step(states, launched)
        metrics.batch_rows.observe(len(states))
        return step_s

    def _step(self, states: list[State], launched: Callable[[], None]) -> float:
        rows = len(states)

        def launch() -> Step | None:
            step = self.runner.launch(states)
            launched()
            return step

        before_s = self._step_s.get(rows, 0.0)
        step_s = self._until_over(launch, before_s, _SURE * before_s)
        self._step_s[rows] = min(step_s, _GROWTH * (before_s or step_s))
        return step_s

    def piece(self, work: Callable[[], object]) -> float:
        """Of what takes longer than a step. Returns the seconds it took. Raises what `work` does."""
        self._piece_s = self._until_over(lambda: self.runner.tell(work), self._piece_s, 0.0)
        return self._piece_s

    def _until_over(self, launch: Callable[[], Step | None], likely_s: float, sure_s: float) -> float:
        started = time.perf_counter()
        self.over_at = time.monotonic() + likely_s
        if (step := launch()) is not None:
            try:
                self._run_beside(step, started + sure_s)
            finally:
                self.runner.end(step)
        return time.perf_counter() - started

    def _run_beside(self, step: Step, until: float) -> None:
        """Up to then nobody looks whether it is over."""
        while not step.query():
            rest_s = max(until - time.perf_counter(), _LOOK_S)
            self.errands.await_soon(min(rest_s, _OFTEN_S) if self.often() else rest_s)
            self.errands.run_soon()
            self.beside()
