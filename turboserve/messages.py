"""What a gateway says of sessions and chunks, as a client keeps it. Fields that a newer gateway adds are
skipped.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class Input(msgspec.Struct, frozen=True):
    """One steering input; `kind` is "prompt" today."""

    kind: str
    text: str = ""


class SessionInfo(msgspec.Struct, frozen=True):
    """A session as the gateway describes it. `status`: queued, active, paused, closed or failed; `phase` says
    more. While queued: `position` from 0, and `expected_wait_s` if that is known. `served_rung`: the lower
    quality it is served at while demand is high, "": the one it asked for. `decision`: the one that placed,
    moved, stepped or refused it last (`turboserve explain`).
    """

    id: str
    status: str
    phase: str = ""
    reason: str = ""
    model: str = ""
    rung: str = ""
    prompt: str = ""
    seed: int = 0
    next_chunk: int = 0
    max_chunks: int | None = None
    worker: str = ""
    warnings: list[str] = []
    created_at: datetime | None = None
    updated_at: datetime | None = None
    priority: int = 0
    position: int | None = None
    expected_wait_s: float | None = None
    served_rung: str = ""
    decision: str = ""


class Steered(msgspec.Struct, frozen=True):
    """`from_chunk`: the first chunk that shows the new prompt. `warnings`: words the model doesn't know."""

    from_chunk: int
    warnings: list[str] = []


class Chunk(msgspec.Struct, frozen=True):
    """One piece of the video. `media`: H.264 Annex-B that begins with a keyframe, `frames` frames at `fps`.

    `inputs` are the ones it shows. `timings`: seconds spent in each stage. `made_at`: wall clock of the
    worker.
    """

    index: int
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    inputs_version: int
    inputs: list[Input]
    media: bytes = b""
    rung: str = ""
    worker: str = ""
    epoch: int = 0
    timings: dict[str, float] = {}
    made_at: float = 0.0

    @property
    def duration_s(self) -> float:
        return self.frames / self.fps

    @property
    def prompt(self) -> str:
        """Text of the newest prompt it shows, "" if there is none."""
        return next((i.text for i in reversed(self.inputs) if i.kind == "prompt"), "")


class DeviceInfo(msgspec.Struct, frozen=True):
    """A worker's device. None, 0 and "": it doesn't tell."""

    name: str = ""
    kind: str = ""
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    utilisation_ratio: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


class Tiers(msgspec.Struct, frozen=True):
    """How many sessions' states are in the device's memory, and how many are suspended to the host's."""

    device: int = 0
    host: int = 0


class WorkerInfo(msgspec.Struct, frozen=True):
    """A worker as the gateway describes it. `state`: starting, ready or draining. `capacity`: how many active
    sessions keep up with real time. `copies`: sessions it holds, of which `paused` are paused. `transports`:
    over which sessions can be moved to and from it. `slots`: how many copies fit. `latency_s[n]`: predicted
    of a chunk with n active sessions, from n = 0; empty: not measured. `node`: the machine it runs on.
    """

    id: str
    state: str
    model: str = ""
    active: int = 0
    capacity: int = 0
    copies: int = 0
    paused: int = 0
    copies_by_tier: Tiers = Tiers()
    transports: list[str] = []
    device: DeviceInfo | None = None
    slots: int = 0
    latency_s: list[float] = []
    node: str = ""


class FleetMember(msgspec.Struct, frozen=True):
    """A worker as its provider sees it. `state`: starting, running, stopping, exited or failed."""

    worker: str
    state: str
    restarts: int = 0
    detail: str = ""


class FleetInfo(msgspec.Struct, frozen=True):
    """The autoscaler's newest decision, and why. `draining`: workers it wants emptied. `decision`: its id.
    `would`: what it would do but for `frozen` or `dry_run`, in words.
    """

    desired: int
    minimum: int
    maximum: int
    reason: str
    workers: list[FleetMember]
    draining: list[str] = []
    policy: str = ""
    decision: str = ""
    spare: int = 0
    frozen: bool = False
    dry_run: bool = False
    would: str = ""


class DecisionInfo(msgspec.Struct, frozen=True):
    """A decision in short. `service`: "placement" or "autoscaler". `policy`: its name. `sessions`, `workers`:
    whom it concerns.
    """

    id: str
    service: str
    instance: str
    at: datetime
    policy: str
    reason: str = ""
    sessions: list[str] = []
    workers: list[str] = []


class DecisionRecord(msgspec.Struct, frozen=True):
    """A decision with all it was a function of, as JSON of the policy's own structs: its `settings`, the
    `view` it saw, its `memory` of before, and the `decision`.
    """

    about: DecisionInfo
    settings: msgspec.Raw
    view: msgspec.Raw
    memory: msgspec.Raw
    decision: msgspec.Raw


class Phase(msgspec.Struct, frozen=True):
    """One step of an operation, and how long it took."""

    name: str
    duration_s: float


class Drained(msgspec.Struct, frozen=True):
    """What became of a drained worker's sessions, by id. `moved`: other workers go on with their state.
    `placed`: other workers go on, their picture begins anew. `queued`: they wait for room. `released`:
    paused ones. `copies`: those it still held at the end.
    """

    worker: str
    moved: list[str]
    queued: list[str]
    released: list[str]
    copies: int
    phases: list[Phase]
    placed: list[str] = []


class Moved(msgspec.Struct, frozen=True):
    """What came of a move. `outcome`: "moved" (with the session's state), "placed" (there was none: it begins
    or resumes at `target`), "stayed" (`why`) or "lost" (`why`: its state is gone, it is placed anew).
    `pause_s`: how long nobody could make its next chunk.
    """

    session: str
    source: str
    target: str
    outcome: str
    why: str = ""
    pause_s: float = 0.0
    sent_bytes: int = 0
    phases: list[Phase] = []


class Stowed(msgspec.Struct, frozen=True):
    """A session that was suspended or restored. `tier`: where its state is now: "device", "host", or "none"
    if it has none. `worker` "": none has it, it waits. `bytes`: copied for that now.
    """

    session: str
    status: str
    worker: str
    tier: str
    bytes: int = 0
    phases: list[Phase] = []
