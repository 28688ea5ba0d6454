"""Settings of the autoscaler."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from shared.settings import PositiveSeconds, ServiceSettings

WorkerCount = Annotated[int, Meta(ge=0, le=256)]


class AutoscalerSettings(ServiceSettings, frozen=True, kw_only=True):
    """`minimum`: workers that run even when nobody watches. `maximum`: never more than this many (not given:
    one for every two processors of this machine, and at least the minimum). `hold_s`: how long workers must
    have been too many before one goes. `model`: model the workers serve (not given: the worker's default).
    `provider`: where workers run; `local` starts them as processes beside the autoscaler. `log_folder`: each
    local worker logs into a file of its own there (not given: to this process's output). `start_deadline_s`:
    a worker that isn't ready by then is replaced. `silent_s`: a worker whose process runs but who has
    reported nothing for so long is replaced. `restart_limit`: how many unexpected ends per wanted worker
    within `restart_window_s` are answered by a new start. `restart_window_s`: how far back they count.
    `worker_stop_s`: time a worker gets to end by itself before it is killed. `drain_s`: time a worker that is
    drained gets for its last sessions.
    """

    minimum: WorkerCount = 1
    maximum: WorkerCount | None = None
    hold_s: PositiveSeconds = 60.0
    model: str = ""
    provider: Literal["local"] = "local"
    log_folder: str = ""
    start_deadline_s: PositiveSeconds = 180.0
    silent_s: PositiveSeconds = 30.0
    restart_limit: Annotated[int, Meta(ge=0, le=100)] = 5
    restart_window_s: PositiveSeconds = 300.0
    worker_stop_s: PositiveSeconds = 8.0
    drain_s: PositiveSeconds = 600.0
