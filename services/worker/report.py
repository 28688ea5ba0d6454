"""The worker's word on itself: a load report on every change and at least twice a second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from services.worker import metrics
from services.worker.copies import STATES
from services.worker.device import Device
from services.worker.models.protocol import ModelSpec
from services.worker.roster import Roster
from shared.bus import Bus
from shared.contracts.fleet import DeviceReport, LatencyPoint, LoadReport, ModelReport
from shared.contracts.subjects import LOAD_REPORT

INTERVAL_S = 0.5
_AT_MOST_EVERY_S = 0.05


@dataclass(slots=True)
class Reporter:
    """`changed` is set by whoever changes anything a report tells of. Fields are filled in as the worker
    comes up.
    """

    bus: Bus
    cell: str
    worker: str
    incarnation: str
    model: ModelReport
    node: str = ""
    state: str = "starting"
    capacity: int = 0
    slots: int = 0
    curve: list[LatencyPoint] = field(default_factory=list)
    device: Device | None = None
    transports: list[str] = field(default_factory=list)
    roster: Roster | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float = field(default_factory=time.time)
    _sequence: int = 0

    def say(self, state: str) -> None:
        self.state = state
        self.changed.set()

    async def run(self) -> None:
        while True:
            self.changed.clear()
            await self.publish()
            await asyncio.sleep(_AT_MOST_EVERY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S - _AT_MOST_EVERY_S):
                    await self.changed.wait()

    async def publish(self) -> None:
        self._sequence += 1
        copies = self.roster.reports() if self.roster else []
        for state in STATES:
            metrics.copies_held.labels(state).set(sum(copy.state == state for copy in copies))
        report = LoadReport(
            worker=self.worker,
            incarnation=self.incarnation,
            sequence=self._sequence,
            state=self.state,
            model=self.model,
            capacity=self.capacity,
            slots=self.slots,
            copies=copies,
            curve=self.curve,
            device=self.device.report() if self.device else DeviceReport("", ""),
            sent_at=time.time(),
            started_at=self.started_at,
            transports=self.transports,
            node=self.node,
        )
        await self.bus.publish(LOAD_REPORT.at(cell=self.cell, worker=self.worker), report)


def unknown_model(name: str) -> ModelReport:
    """What can be said of a model before it is loaded: its name."""
    return ModelReport(name, 0, 0, 0.0, 0, 0, 0, [], "", 0)


def model_report(spec: ModelSpec) -> ModelReport:
    return ModelReport(
        name=spec.name,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        chunk_frames=spec.chunk_frames,
        first_chunk_frames=spec.first_chunk_frames,
        max_prompt_chars=spec.max_prompt_chars,
        rungs=[rung.name for rung in spec.rungs],
        weights_digest=spec.weights_digest,
        state_bytes=spec.state_bytes,
        architecture=spec.architecture,
        dtype=spec.dtype,
    )
