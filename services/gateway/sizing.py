"""The HTTP calls about the fleet's size: what the autoscaler has decided, and what operators set for it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, get, patch
from msgspec import Meta

from services.gateway.gateway import Gateway
from services.gateway.operation_bodies import InCell, error
from services.gateway.problems import autoscaler_away
from shared.contracts.fleet import FleetPlan, SetFleet

_AWAY = error(
    "autoscaler_away",
    "the autoscaler doesn't answer",
    "try again in a moment",
    "No autoscaler runs, or NATS is away: see Retry-After.",
)


class FleetMemberBody(msgspec.Struct, frozen=True):
    """A worker as its provider sees it. `state`: "starting", "running", "stopping", "exited" or "failed".
    `restarts`: how many had ended unexpectedly when it was started. `detail`: how it ended.
    """

    worker: str
    state: str
    restarts: int
    detail: str


class FleetBody(msgspec.Struct, frozen=True):
    """`desired`, `minimum`, `maximum`: workers that the autoscaler starts; those started by hand come on top.
    `reason`: why as many. `draining`: workers it is emptying, to let them go. `decision`: id of its newest
    one (GET /v1/decisions/{id}). `spare`, `frozen`, `dry_run`: as set. `would`: what it would do but for
    `frozen` or `dry_run`.
    """

    autoscaler: str
    policy: str
    desired: int
    minimum: int
    maximum: int
    spare: int
    frozen: bool
    dry_run: bool
    reason: str
    would: str
    decision: str
    draining: list[str]
    workers: list[FleetMemberBody]


_Workers = Annotated[int, Meta(ge=0, le=1024)]


class SetFleetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    minimum: Annotated[_Workers | None, Meta(description="Workers that run even when nobody watches.")] = None
    maximum: Annotated[_Workers | None, Meta(description="Never more than so many.")] = None
    spare: Annotated[_Workers | None, Meta(description="Ready workers to keep beside those needed.")] = None
    frozen: Annotated[bool | None, Meta(description="The size stays; who ends unexpectedly is replaced.")] = (
        None
    )
    dry_run: Annotated[bool | None, Meta(description="Decide and say so, but do nothing.")] = None


@get(
    "/",
    response_description="The newest decision, with its reason.",
    operation_id="getFleet",
    summary="How many workers there should be, and why",
    responses={503: _AWAY},
)
async def get_fleet(gateway: Gateway, cell: InCell = "") -> FleetBody:
    plan = gateway.cells.named(cell).fleet.plan()
    if plan is None:
        raise autoscaler_away("start one, or try again in a moment")
    return _body(plan)


@patch(
    "/",
    response_description="What holds from now on, over restarts of the autoscaler too.",
    operation_id="setFleet",
    summary="Set the fleet's bounds, freeze it, or have the autoscaler only say what it would do",
    responses={
        422: error(
            "invalid_field",
            "the minimum, 5, would be more than the maximum, 4: raise the one or lower the other",
            "nothing was changed",
            "What can't be.",
        ),
        503: _AWAY,
    },
)
async def set_fleet(data: SetFleetBody, gateway: Gateway, cell: InCell = "") -> FleetBody:
    asked = SetFleet(**msgspec.structs.asdict(data))
    return _body(await gateway.cells.named(cell).placement.set_fleet(asked))


def _body(plan: FleetPlan) -> FleetBody:
    return msgspec.convert(msgspec.to_builtins(plan), FleetBody)


def router() -> Router:
    return Router("/v1/fleet", route_handlers=[get_fleet, set_fleet], tags=["workers"])
