"""The HTTP calls of those who run the fleet: which workers there are, and taking one out of service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.params import Parameter

from services.gateway.gateway import Gateway
from services.gateway.operation_bodies import AWAY, DrainedBody, InCell, WorkersBody, error, worker_body
from services.gateway.problems import Problem


@get(
    "/",
    response_description="By name.",
    operation_id="listWorkers",
    summary="The workers that are alive, and what they have to do",
    responses={503: error(*AWAY, "Placement or NATS is away.")},
)
async def list_workers(gateway: Gateway) -> WorkersBody:
    workers = gateway.cells.workers()
    if workers is None:
        raise Problem(503, *AWAY)
    return WorkersBody([worker_body(worker, cell) for cell, worker in workers])


@post(
    "/{worker_id:str}/drain",
    status_code=200,
    response_description="Nothing is placed there any more, and the worker stops.",
    operation_id="drainWorker",
    summary="Take a worker out of service: its sessions go on elsewhere",
    responses={
        404: error(
            "worker_not_found", "there is no worker 'w-9'", "workers: w-1, w-2", "There is no such worker."
        ),
        409: error(
            "only_worker",
            "no other worker is ready to serve sprites, so the sessions of w-1 would wait",
            "start another worker first, or drain it with force",
            "Nobody else could go on with its sessions.",
        ),
        503: error(*AWAY, "Placement, NATS or the worker is away. Draining again is harmless."),
    },
)
async def drain_worker(
    worker_id: str,
    gateway: Gateway,
    force: Annotated[
        bool, Parameter(description="Even if its sessions must wait for another worker.")
    ] = False,
    cell: InCell = "",
) -> DrainedBody:
    drained = await gateway.cells.of_worker(worker_id, cell).placement.drain(worker_id, force=force)
    return msgspec.convert(msgspec.to_builtins(drained), DrainedBody)


def router() -> Router:
    return Router("/v1/workers", route_handlers=[list_workers, drain_worker], tags=["workers"])
