"""Is it alive, is it ready, and what does it count."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.gateway import metrics as gateway_metrics
from services.gateway.fleet import Readiness
from services.gateway.gateway import Gateway


class Alive(msgspec.Struct, frozen=True):
    alive: bool = True


@get("/healthz", operation_id="alive", summary="The process answers", tags=["health"])
async def healthz() -> Alive:
    return Alive()


@get(
    "/readyz",
    operation_id="ready",
    summary="Sessions can be opened and served: NATS, placement and at least one worker are there",
    tags=["health"],
    responses={
        503: ResponseSpec(Readiness, generate_examples=False, description="Not ready; `reasons` says why.")
    },
)
async def readyz(gateway: Gateway) -> Response[Readiness]:
    readiness = gateway.cells.readiness()
    return Response(readiness, status_code=200 if readiness.ready else 503)


@get("/metrics", operation_id="metrics", summary="For Prometheus", tags=["health"], media_type="text/plain")
async def metrics() -> Response[bytes]:
    gateway_metrics.tasks.set(len(asyncio.all_tasks()))
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
