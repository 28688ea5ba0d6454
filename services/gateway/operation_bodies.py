"""The JSON bodies of operators' calls. What is read forbids unknown fields; what is written may grow."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter
from msgspec import Meta

from services.gateway.problems import ErrorBody, ErrorDetail
from shared.contracts.fleet import WorkerLoad

InCell = Annotated[
    str, Parameter(max_length=60, description="Of which cell. Empty: found by name, else the first.")
]
AWAY = ("placement_away", "the placement service doesn't answer", "try again in a moment")


class DeviceBody(msgspec.Struct, frozen=True):
    """A worker's device; null: it doesn't tell."""

    name: str
    kind: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilisation_ratio: float | None
    power_w: float | None
    temperature_c: float | None


class TiersBody(msgspec.Struct, frozen=True):
    """How many sessions' states are in the device's memory, and how many are suspended to the host's."""

    device: int
    host: int


class WorkerBody(msgspec.Struct, frozen=True):
    """`state`: "starting", "ready" or "draining". `capacity`: how many active sessions keep up with real
    time there. `copies`: sessions it holds, of which `paused` are paused. `transports`: over which sessions
    can be moved to and from it, best first. `slots`: how many copies fit. `latency_s[n]`: predicted of a
    chunk with n active sessions, for n from 0 to twice the capacity; empty: not measured. `node`: the
    machine it runs on; empty: not told. `cell`: whose fleet it belongs to.
    """

    id: str
    state: str
    model: str
    active: int
    capacity: int
    copies: int
    paused: int
    copies_by_tier: TiersBody
    transports: list[str]
    device: DeviceBody | None
    slots: int = 0
    latency_s: list[float] = []
    node: str = ""
    cell: str = ""


class WorkersBody(msgspec.Struct, frozen=True):
    workers: list[WorkerBody]


class PhaseBody(msgspec.Struct, frozen=True):
    name: str
    duration_s: float


class DrainedBody(msgspec.Struct, frozen=True):
    """What became of the worker's sessions, by id. `moved`: other workers go on with their state. `placed`:
    other workers go on, the picture begins anew. `queued`: they wait for room. `released`: paused ones,
    placed when they are resumed. `copies`: those the worker still held when it was told to stop.
    """

    worker: str
    moved: list[str]
    queued: list[str]
    released: list[str]
    copies: int
    phases: list[PhaseBody]
    placed: list[str] = []


class MoveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    to: Annotated[str, Meta(description="Name of the worker. Empty: the one with most room.")] = ""


class MovedBody(msgspec.Struct, frozen=True):
    """`outcome`: "moved" (`target` goes on with the session's state), "placed" (there was no state to carry:
    it begins or resumes there), "stayed" (`why`) or "lost" (`why`: its state is gone, it is placed anew).
    `pause_s`: how long nobody could make the session's next chunk.
    """

    session: str
    source: str
    target: str
    outcome: str
    why: str
    pause_s: float
    sent_bytes: int
    phases: list[PhaseBody]


class StowedBody(msgspec.Struct, frozen=True):
    """`status` and `worker`: the session's. `tier`: where its state is now: "device", "host", or "none" if
    it has none. `bytes`: copied for that now; a state is copied behind its chunks, so it may be none.
    """

    session: str
    status: str
    worker: str
    tier: str
    bytes: int
    phases: list[PhaseBody]


def worker_body(load: WorkerLoad, cell: str) -> WorkerBody:
    return WorkerBody(
        id=load.worker,
        state=load.state,
        model=load.model,
        active=load.active,
        capacity=load.capacity,
        copies=load.copies,
        paused=load.paused,
        copies_by_tier=TiersBody(load.on_device, load.on_host),
        transports=load.transports,
        device=None if load.device is None else DeviceBody(**msgspec.structs.asdict(load.device)),
        slots=load.slots,
        latency_s=[round(one_s, 6) for one_s in load.latency_s[: 2 * load.capacity + 1]],
        node=load.node,
        cell=cell,
    )


def error(code: str, message: str, hint: str, description: str) -> ResponseSpec:
    """An error answer for the OpenAPI document, with its example."""
    example = Example(value=msgspec.to_builtins(ErrorBody(ErrorDetail(code, message, hint))))
    return ResponseSpec(ErrorBody, generate_examples=False, description=description, examples=[example])
