"""The services with an autoscaler that starts and ends the workers, a GPU each; placement's policy can be
changed while they run.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.gpu.policies.phases import LEAST_WORKERS, Phase
from bench.gpu.policies.watch import Watch
from bench.gpu.system.services import NotStarted, Services
from shared.bus import Bus
from turboserve.nats_server import free_port

SCALED = "turboserve"
"""The autoscaler's policy; a fixed fleet is its minimum and maximum in one."""
_POLL_S = 0.1
_ASK_S = 5.0
_END_S = 15.0
_MOST_IN_VAIN = 1
_BUCKET = re.compile(
    r'^turboserve_placement_decision_milliseconds_bucket\{le="([^"]+)".*\} (\S+)', re.MULTILINE
)


class System(Services):
    """`devices`: of as many workers as there may be. `settings`: of the workers, `scaling`: of the scaled
    policy.
    """

    def __init__(
        self,
        out: Path,
        devices: Sequence[str],
        model: str,
        settings: Mapping[str, str],
        scaling: Mapping[str, Any],
    ) -> None:
        super().__init__(out, [], model, {})
        self.watch = Watch()
        self._devices, self._scaling = devices, dict(scaling)
        self._database = ""
        self._logs = out / "logs"
        given = {"model": model, **settings}
        self._environment |= {f"TURBOSERVE_WORKER_{name.upper()}": value for name, value in given.items()}

    async def start(self, data: Path) -> Bus:
        bus = await super().start(data)
        await self.watch.listen(bus)
        self._database = f"sqlite+aiosqlite:///{data / 'turboserve.db'}"
        self._service(
            "autoscaler",
            database_url=self._database,
            policy=SCALED,
            policy_settings=json.dumps(self._scaling),
            minimum=LEAST_WORKERS,
            maximum=len(self._devices),
            devices=",".join(self._devices),
            model=self._model,
            log_folder=self._logs,
        )
        return bus

    async def prepare(self, phase: Phase) -> None:
        """A placement of its own, which knows of no session yet, and the fleet that the phase begins with:
        give it a deadline.
        """
        former = self.watch.load.placement if self.watch.load else ""
        await self._end("placement")
        log = self._log("placement")
        log.rename(log.with_stem(f"placement-{1 + len(list(self._logs.glob('placement-*')))}"))
        self._metrics["placement"] = free_port()
        self._service(
            "placement",
            database_url=self._database,
            default_model=self._model,
            models=self._model,
            policy=phase.policy,
            metrics_port=self._metrics["placement"],
        )
        count = phase.least(len(self._devices))
        await self._set_minimum(count)
        while self.watch.ready(former) != count:
            self.check()
            if len(self.watch.in_vain) > _MOST_IN_VAIN:
                raise NotStarted(f"{len(self.watch.in_vain)} workers ended before they were ready")
            await asyncio.sleep(_POLL_S)
        await self.answers()

    async def decision_ms(self) -> dict[str, float | None]:
        """Of the placement that runs, estimated within the buckets that it counts in."""
        text = (await self.metrics()).get("placement", "")
        buckets = [(float(most), float(count)) for most, count in _BUCKET.findall(text)]
        return {name: within(buckets, share) for name, share in (("p50", 0.5), ("p99", 0.99))}

    def last_words(self) -> str:
        names = ("placement", "autoscaler", *(f"worker-{n}" for n in range(1, len(self._devices) + 1)))
        return "\n".join(f"{name}: {self.tail(name)}" for name in names)

    async def _set_minimum(self, count: int) -> None:
        ends_at = time.monotonic() + 6 * _ASK_S
        async with httpx.AsyncClient(base_url=self.url, timeout=_ASK_S, trust_env=False) as http:
            while True:
                try:
                    (await http.patch("/v1/fleet", json={"minimum": count})).raise_for_status()
                except httpx.HTTPError:
                    if time.monotonic() > ends_at:
                        raise
                    await asyncio.sleep(_POLL_S)
                else:
                    return

    async def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.terminate()
        await asyncio.to_thread(process.wait, _END_S)


def within(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The value that `share` of what a histogram counted doesn't exceed: `buckets` are (bound, how many up to
    it), ascending; straight between two bounds, the last finite one for what is above. None: it is empty.
    """
    wanted = share * buckets[-1][1] if buckets else 0.0
    if not wanted:
        return None
    below, before = 0.0, 0.0
    for most, count in buckets:
        if count >= wanted:
            part = (wanted - before) / (count - before)
            return below if most == float("inf") else round(below + part * (most - below), 3)
        below, before = most, count
    raise AssertionError("the last bucket holds all")
