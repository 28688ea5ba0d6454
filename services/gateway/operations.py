"""The HTTP calls of those who run the fleet: which workers there are, and taking one out of service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter

from services.gateway.gateway import Gateway
from services.gateway.problems import ErrorBody, ErrorDetail, Problem
from shared.contracts.fleet import WorkerLoad


class DeviceBody(msgspec.Struct, frozen=True):
    """A worker's device; null: it doesn't tell."""

    name: str
    kind: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilisation_ratio: float | None
    power_w: float | None
    temperature_c: float | None


class WorkerBody(msgspec.Struct, frozen=True):
    """`state`: "starting", "ready" or "draining". `capacity`: how many active sessions keep up with real
    time there. `copies`: sessions whose state it holds, paused ones included.
    """

    id: str
    state: str
    model: str
    active: int
    capacity: int
    copies: int
    device: DeviceBody | None


class WorkersBody(msgspec.Struct, frozen=True):
    workers: list[WorkerBody]


class PhaseBody(msgspec.Struct, frozen=True):
    name: str
    duration_s: float


class DrainedBody(msgspec.Struct, frozen=True):
    """What became of the worker's sessions, by id. `moved`: other workers go on with them, their picture
    begins anew. `queued`: they wait for room. `released`: paused ones, placed when they are resumed.
    `phases`, in order: place (decide and save), start (new owners answered), release (old copies dropped),
    stop (the worker was told to stop, while it still held `copies`).
    """

    worker: str
    moved: list[str]
    queued: list[str]
    released: list[str]
    copies: int
    phases: list[PhaseBody]


def _error(code: str, message: str, hint: str, description: str) -> ResponseSpec:
    example = Example(value=msgspec.to_builtins(ErrorBody(ErrorDetail(code, message, hint))))
    return ResponseSpec(ErrorBody, generate_examples=False, description=description, examples=[example])


_AWAY = ("placement_away", "the placement service doesn't answer", "try again in a moment")


@get(
    "/",
    response_description="By name.",
    operation_id="listWorkers",
    summary="The workers that are alive, and what they have to do",
    responses={503: _error(*_AWAY, "Placement or NATS is away.")},
)
async def list_workers(gateway: Gateway) -> WorkersBody:
    workers = gateway.fleet.workers()
    if workers is None:
        raise Problem(503, *_AWAY)
    return WorkersBody([_worker(worker) for worker in workers])


@post(
    "/{worker_id:str}/drain",
    status_code=200,
    response_description="Nothing is placed there any more, and the worker stops.",
    operation_id="drainWorker",
    summary="Take a worker out of service: its sessions go on elsewhere",
    responses={
        404: _error(
            "worker_not_found", "there is no worker 'w-9'", "workers: w-1, w-2", "There is no such worker."
        ),
        409: _error(
            "only_worker",
            "no other worker is ready to serve sprites, so the sessions of w-1 would wait",
            "start another worker first, or drain it with force",
            "Nobody else could go on with its sessions.",
        ),
        503: _error(*_AWAY, "Placement, NATS or the worker is away. Draining again is harmless."),
    },
)
async def drain_worker(
    worker_id: str,
    gateway: Gateway,
    force: Annotated[
        bool, Parameter(description="Even if its sessions must wait for another worker.")
    ] = False,
) -> DrainedBody:
    drained = await gateway.placement.drain(worker_id, force=force)
    return msgspec.convert(msgspec.to_builtins(drained), DrainedBody)


def _worker(load: WorkerLoad) -> WorkerBody:
    device = None if load.device is None else DeviceBody(**msgspec.structs.asdict(load.device))
    return WorkerBody(load.worker, load.state, load.model, load.active, load.capacity, load.copies, device)


def router() -> Router:
    return Router("/v1/workers", route_handlers=[list_workers, drain_worker], tags=["workers"])
