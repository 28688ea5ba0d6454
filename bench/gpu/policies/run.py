"""One start-up on which phases are played, and what is written of them after each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.gpu.policies.calibrate import calibrate
from bench.gpu.policies.page import page
from bench.gpu.policies.phases import Phase, Prediction, Terms, predict, write
from bench.gpu.policies.system import System
from bench.gpu.policies.trace import needed
from bench.gpu.system.run import spread
from bench.live.house import House
from bench.live.prediction import digest
from bench.live.replay import Asked, replay
from bench.traces import files
from bench.traces.events import Event
from bench.traces.statistics import peak_active
from shared.contracts.fleet import LoadReport
from turboserve.errors import TurboserveError

_IN_VAIN_S = 20.0
"""Of active time, of all sessions together."""


class Run:
    """`words`: sentences for the page's top. `ends_at`: on the steady clock. `earlier`: a prediction that was
    made before; it counts if it is of the same trace.
    """

    def __init__(
        self, system: System, out: Path, words: Sequence[str], earlier: Prediction | None, ends_at: float
    ) -> None:
        self.played: dict[str, dict[str, Any]] = {}
        self._system, self._out, self._words, self._ends_at = system, out, list(words), ends_at
        self._earlier = earlier
        self._own: Prediction | None = None
        self._events: list[Event] = []
        self._notes: list[str] = []

    @property
    def capacity(self) -> int:
        """Of a worker, as it says."""
        return self._ready.capacity

    @property
    def _ready(self) -> LoadReport:
        return next(r for r in self._system.watch.reports.values() if r.state == "ready")

    def left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def note(self, text: str) -> None:
        print(text, flush=True)
        self._notes.append(text)

    async def prepare(self, phase: Phase, limit_s: float) -> None:
        """Raises TimeoutError, NotStarted."""
        started = time.monotonic()
        async with asyncio.timeout(limit_s):
            await self._system.prepare(phase)
        print(f"{phase.name}: ready after {time.monotonic() - started:.1f} s", flush=True)

    def begin(self, terms: Terms) -> None:
        """Raises NoTrace."""
        self._events = terms.trace()
        files.write(self._events, self._out / "trace.jsonl")
        self._words.append(_of_trace(terms, self._events))
        if self._earlier is not None and self._earlier.trace != digest(self._events):
            self.note(f"the prediction made earlier is of another trace: {self._earlier.terms}")
            self._earlier = None

    async def play(self, phase: Phase) -> None:
        """Raises TurboserveError."""
        watch = self._system.watch
        watch.forget()
        told = await replay(self._events, Asked(self._system.url), shows_something)
        told |= {
            "carried": spread(watch.pauses_s()),
            "suspends": watch.suspends,
            "resumes": watch.resumes,
            "decision_ms": await self._system.decision_ms(),
        }
        self.played[phase.name] = told
        print(f"{phase.name}: {json.dumps(told)}", flush=True)
        self.write()

    async def measure(self, terms: Terms, phases: Sequence[Phase]) -> None:
        """What the simulator says by this run's own figures: after all that is played, since a session that
        is measured is demand, too.
        """
        boots_s = list(self._system.watch.boots_s.values())
        calibration = await calibrate(self._system.url, self._ready, boots_s)
        write(calibration, self._out / "calibration.json")
        self._own = predict(terms, calibration, phases)
        write(self._own, self._out / "prediction.json")
        self.write()

    def write(self) -> None:
        boots = ", ".join(f"{boot_s:.1f}" for boot_s in self._system.watch.boots_s.values())
        words = [*self._words, f"Boots, from the order to readiness: {boots} s.", *self._notes]
        said = self._earlier or self._own
        if self.played:
            (self._out / "policies.md").write_text(page(words, said, said is self._own, self.played))
        predictions = {"earlier": self._earlier, "own": self._own}
        content = {"words": words, "live": self.played, **msgspec.to_builtins(predictions)}
        (self._out / "policies.json").write_text(json.dumps(content, indent=1) + "\n")


def shows_something(_: float, house: House) -> None:
    """Time on the machine is short: none of it for a phase that plays nothing. Raises TurboserveError."""
    meter = house.meter
    if meter.active_s > _IN_VAIN_S and not meter.latencies_s:
        raise TurboserveError("no_chunks", f"{meter.active_s:.0f} s of demand, and no chunk was shown")


def _of_trace(terms: Terms, events: Sequence[Event]) -> str:
    spent_s = needed(events, terms.capacity)
    spent = ", ".join(f"{count} for {spent_s[count]:.0f} s" for count in sorted(spent_s))
    return (
        f"Trace `{digest(events)[:12]}`, seed {terms.seed}: {len({e.session for e in events})} sessions in "
        f"{events[-1].time_s:.0f} s, at most {peak_active(events)} active, {terms.capacity} fit a worker. "
        f"Workers needed: {spent}."
    )
