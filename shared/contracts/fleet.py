"""What workers, placement and the autoscaler say to each other."""

from __future__ import annotations

import msgspec

from shared.contracts.session import Input


class Own(msgspec.Struct, frozen=True):
    """Placement to a worker: this is how the session should be. Absolute, so repeating it is harmless.

    Opening, steering, pausing and resuming are all this one command with a higher `revision`; an older
    `epoch` or `revision` than the copy's is refused. `start_chunk` is where a worker without a copy begins
    (it looks into the chunk log all the same). `granted_through` is the credit known so far. After
    `deadline_at` it must not be carried out. With `move_id` the copy came (or comes) by that move: a worker
    without it must not begin anew, and refuses with "freed".
    """

    session: str
    tenant: str
    epoch: int
    revision: int
    model: str
    seed: int
    inputs: list[Input]
    inputs_version: int
    deadline_at: float
    rung: str = ""
    start_chunk: int = 0
    granted_through: int = -1
    paused: bool = False
    max_chunks: int | None = None
    traceparent: str = ""
    move_id: str = ""


class Owned(msgspec.Struct, frozen=True):
    """`next_chunk`: the next index this worker will make. `from_chunk`: the first one showing the command's
    inputs.
    """

    next_chunk: int
    from_chunk: int


class Drop(msgspec.Struct, frozen=True):
    """Forget the copy if its epoch is at most `epoch`, and (where given) its next chunk at most
    `unless_past`. Idempotent.
    """

    session: str
    epoch: int
    unless_past: int | None = None


class Dropped(msgspec.Struct, frozen=True):
    """`held`: whether there was a copy to drop."""

    held: bool


class Drain(msgspec.Struct, frozen=True):
    """Take no further session and, once the worker holds none (or at `deadline_at`), stop."""

    deadline_at: float


class Draining(msgspec.Struct, frozen=True):
    copies: int


class CopyReport(msgspec.Struct, frozen=True):
    """One session's copy on a worker.

    `state`: "running" (has work or waits for credit), "encoding" (new: its prompt is being encoded),
    "rebuilding" (its state was lost, and is made anew of what the cold tier has), "paused", "finished"
    (max_chunks are in the log), "failed" (with `error`), "superseded" (the log showed another owner). Unknown
    states count as running.
    `tier`: where its state is: "device", "host" (suspended), "none" (not made yet, or lost). `move_id`: the
    move it came by, as long as no chunk of it is in the log (it is *unproven*); `committed`: it was told
    since that it is the owner's.
    """

    session: str
    tenant: str
    epoch: int
    revision: int
    state: str
    next_chunk: int
    granted_through: int
    error: str = ""
    tier: str = "device"
    move_id: str = ""
    committed: bool = False


class LatencyPoint(msgspec.Struct, frozen=True):
    """Measured: with `batch` rows stepped together, one chunk of every row takes `chunk_s`."""

    batch: int
    chunk_s: float
    rung: str = ""


class DeviceReport(msgspec.Struct, frozen=True):
    """Of the worker's device. None: this device doesn't tell."""

    name: str
    kind: str
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    utilisation_ratio: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


class ModelReport(msgspec.Struct, frozen=True):
    """The model a worker serves: enough for a gateway or placement to check a request without torch.

    Sessions move only between workers that agree in `architecture` (with decoder and window), `dtype`,
    weights and sizes; "": they can't move.
    """

    name: str
    width: int
    height: int
    fps: float
    chunk_frames: int
    first_chunk_frames: int
    max_prompt_chars: int
    rungs: list[str]
    weights_digest: str
    state_bytes: int
    architecture: str = ""
    dtype: str = ""


class LoadReport(msgspec.Struct, frozen=True):
    """A worker's word on itself, on every change and at least twice a second. Latest wins; liveness is built
    on it.

    `incarnation` is new with every process start. `state`: "starting", "ready", "draining", "stopped" (its
    last word). `capacity` is how many active sessions keep up with real time here; `slots` how many copies
    fit, paused ones included. `transports`: over which it can be linked to other workers, best first. `node`:
    the machine it runs on, as its provider calls it; "": not told.
    """

    worker: str
    incarnation: str
    sequence: int
    state: str
    model: ModelReport
    capacity: int
    slots: int
    copies: list[CopyReport]
    curve: list[LatencyPoint]
    device: DeviceReport
    sent_at: float
    started_at: float
    media_endpoint: str = ""
    transports: list[str] = []
    node: str = ""


class WorkerExited(msgspec.Struct, frozen=True):
    """Who started a worker's process saw it end: quicker than waiting for its reports to stop. `exit_code`
    None: unknown. `incarnation`: as its reports have it; "": not known, of a worker whose name is never given
    again.
    """

    worker: str
    exit_code: int | None = None
    incarnation: str = ""


class WorkerLoad(msgspec.Struct, frozen=True):
    """A worker as placement sees it; `state` is "draining" from the moment an operator asked for it.

    `paused`: how many of its copies are. `on_device`, `on_host`: copies by where their state is; on the host
    they are suspended. `transports`, `node`, `started_at` (seconds since the epoch): as the worker reports
    them. `latency_s[n]`: predicted of a chunk with n active sessions, for n from 0 to `slots`; empty: not
    measured. `kind`: of its device.
    """

    worker: str
    state: str
    capacity: int
    active: int
    copies: int
    model: str = ""
    device: DeviceReport | None = None
    paused: int = 0
    on_device: int = 0
    on_host: int = 0
    transports: list[str] = []
    slots: int = 0
    latency_s: list[float] = []
    kind: str = ""
    node: str = ""
    started_at: float = 0.0


class SessionCounts(msgspec.Struct, frozen=True):
    """What users did since this placement leads; another `placement` counts from 0 again. `arrived_active`
    are among `arrived`, `departed_active` among `departed`. Active: wants chunks, with or without a worker.
    """

    arrived: int = 0
    arrived_active: int = 0
    activated: int = 0
    idled: int = 0
    departed: int = 0
    departed_active: int = 0


class FleetLoad(msgspec.Struct, frozen=True):
    """Placement to the autoscaler (and the gateways' readiness): demand and what serves it. On change and
    every second.

    `rho_max`: the highest ratio of active sessions to capacity of a ready worker, as the last decision left
    it.
    """

    placement: str
    active: int
    queued: int
    paused: int
    capacity: int
    workers: list[WorkerLoad]
    models: list[ModelReport]
    sent_at: float
    counts: SessionCounts = SessionCounts()
    rho_max: float = 0.0


class DrainWorker(msgspec.Struct, frozen=True):
    """An operator to placement: place nothing more on `worker`, take its sessions elsewhere, and let it stop.

    Repeating it is harmless. `force`: even if no other worker serves its model, so that its sessions wait.
    """

    worker: str
    force: bool = False


class PhaseTime(msgspec.Struct, frozen=True):
    """One step of an operator's call, and how long it took.

    Steps follow each other and add up to the whole; one with a space in its `name` ("source link") is a
    detail within them.
    """

    name: str
    duration_s: float


class WorkerDrained(msgspec.Struct, frozen=True):
    """What became of the worker's sessions, by id: `moved` to another worker with their state, paused ones
    too; `placed` on another worker, where their picture begins anew; `queued` until a worker has room;
    `released`: paused ones, placed when they are resumed. `copies`: those the worker still held when it was
    told to stop.
    """

    worker: str
    moved: list[str]
    queued: list[str]
    released: list[str]
    copies: int
    phases: list[PhaseTime]
    placed: list[str] = []


class FleetWorker(msgspec.Struct, frozen=True):
    """A worker as its provider sees it. `state`: "starting", "running", "stopping", "exited", "failed"."""

    worker: str
    state: str
    restarts: int = 0
    detail: str = ""


class FleetPlan(msgspec.Struct, frozen=True):
    """The autoscaler's newest decision with its reason and what it acted on. On change and every second.

    `draining`: workers it wants emptied, absolute: placement takes them for draining as long as they are
    named here, and no longer. `decision`: its id in the log of decisions. `spare`, `frozen`, `dry_run`: as
    operators set them (`SetFleet`). `would`: what would be done but for `frozen` or `dry_run`, in words.
    `ended`: what was told of workers that ended lately, again, for a placement that didn't hear it.
    """

    autoscaler: str
    desired: int
    minimum: int
    maximum: int
    reason: str
    workers: list[FleetWorker]
    sent_at: float
    draining: list[str] = []
    policy: str = ""
    decision: str = ""
    spare: int = 0
    frozen: bool = False
    dry_run: bool = False
    would: str = ""
    ended: list[WorkerExited] = []


class SetFleet(msgspec.Struct, frozen=True):
    """An operator to the autoscaler: these bounds from now on, kept over its restarts. None: as it is.

    `spare`: ready workers to keep beside those needed. `frozen`: the size stays as it is; who ends
    unexpectedly is replaced. `dry_run`: decide and say so, but start, drain and stop nothing.
    """

    minimum: int | None = None
    maximum: int | None = None
    spare: int | None = None
    frozen: bool | None = None
    dry_run: bool | None = None


class CheckPrompt(msgspec.Struct, frozen=True):
    """To any worker of a model (queue group): which words of `prompt` does the model not know?"""

    prompt: str


class PromptChecked(msgspec.Struct, frozen=True):
    warnings: list[str]


class Vitals(msgspec.Struct, frozen=True):
    """What a process holds at the moment. All of it is back where it was once its sessions are gone."""

    tasks: int
    subscriptions: int
    open_files: int
    resident_bytes: int


class ServiceStatus(msgspec.Struct, frozen=True):
    """A service process's own word on its state, on change and every second: "starting", "ready", "waiting",
    "stopping", "stopped".
    """

    service: str
    instance: str
    state: str
    detail: str = ""
    vitals: Vitals | None = None
