"""What the processes of a running system hold, as they say themselves on the bus."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import NamedTuple

from shared.bus import Bus, Meta
from shared.contracts.fleet import ServiceStatus, Vitals
from shared.contracts.subjects import SERVICE_STATUS


class Sample(NamedTuple):
    at: float
    vitals: Vitals


class VitalsWatch:
    """Collects the vitals that every process publishes each second."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.samples: dict[str, list[Sample]] = defaultdict(list)

    async def start(self) -> None:
        await self._bus.subscribe(SERVICE_STATUS, self._heard)

    def _heard(self, status: ServiceStatus, _: Meta) -> None:
        if status.vitals is not None:
            self.samples[status.instance].append(Sample(time.monotonic(), status.vitals))

    def newest(self) -> dict[str, Vitals]:
        return {instance: samples[-1].vitals for instance, samples in self.samples.items()}

    def memory_slopes_mb(self, since: float) -> dict[str, float]:
        """Growth of resident memory since `since` in MB (10⁶ bytes): the median of the newest fifth of the
        samples less that of the oldest fifth.
        """
        slopes = {}
        for instance, samples in self.samples.items():
            kept = [s.vitals.resident_bytes for s in samples if s.at >= since]
            if len(kept) >= 5:
                fifth = len(kept) // 5
                slopes[instance] = (_median(kept[-fifth:]) - _median(kept[:fifth])) / 1e6
        return slopes


def _median(values: list[int]) -> float:
    return float(sorted(values)[len(values) // 2])
