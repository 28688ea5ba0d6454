"""The HTTP calls that show what placement and the autoscaler decided, and of what that was a function."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, cast

import msgspec
from litestar import Router, get
from litestar.params import Parameter
from msgspec import Meta

from services.gateway.gateway import Gateway
from services.gateway.operation_bodies import error
from services.gateway.problems import Problem
from shared.contracts.decisions import DecisionRecord
from shared.decision_log import unpack

MAX_DECISIONS = 200
_MAX_ID_CHARS = 80
_AWAY = error(
    "service_away",
    "NATS, through which the services talk, is away",
    "try again in a moment",
    "NATS, which keeps the decisions, is away: see Retry-After.",
)

AsRecorded = Annotated[dict[str, Any], Meta(description="As the service's own policy has it.")]


class DecisionBody(msgspec.Struct, frozen=True):
    """One decision. `service`: "placement" or "autoscaler". `policy`: its name. `sessions`, `workers`: whom
    it concerns.
    """

    id: str
    service: str
    instance: str
    at: datetime
    policy: str
    reason: str
    sessions: list[str]
    workers: list[str]


class DecisionsBody(msgspec.Struct, frozen=True):
    """Newest first."""

    decisions: list[DecisionBody]


class RecordBody(msgspec.Struct, frozen=True):
    """A decision with all it was a function of: the policy's `settings`, the `view` it saw and its own
    `memory` of before (null: it had none). The same three make the same `decision` again.
    """

    about: DecisionBody
    settings: AsRecorded
    view: AsRecorded
    memory: AsRecorded | None
    decision: AsRecorded


@get(
    "/",
    response_description="Newest first. Decisions that changed nothing aren't recorded.",
    operation_id="listDecisions",
    summary="What placement and the autoscaler decided lately",
    responses={503: _AWAY},
)
async def list_decisions(
    gateway: Gateway,
    limit: Annotated[int, Parameter(ge=1, le=MAX_DECISIONS)] = 20,
    service: Annotated[
        str, Parameter(max_length=_MAX_ID_CHARS, description='"placement" or "autoscaler"; empty: both.')
    ] = "",
    session: Annotated[
        str, Parameter(max_length=_MAX_ID_CHARS, description="Only those that concern this session.")
    ] = "",
) -> DecisionsBody:
    """Of the newest thousand."""
    records = await gateway.cells.newest_decisions(limit, service, session)
    return DecisionsBody([_about(record) for record in records])


@get(
    "/{decision_id:str}",
    response_description="The decision, and all it was a function of.",
    operation_id="getDecision",
    summary="One decision, so that it can be explained and taken again",
    responses={
        404: error(
            "decision_not_found",
            "there is no decision 'p-1', or none any more",
            "GET /v1/decisions lists them",
            "There is no such decision, or none any more.",
        ),
        503: _AWAY,
    },
)
async def get_decision(gateway: Gateway, decision_id: str) -> RecordBody:
    record = await gateway.cells.decision(decision_id)
    if record is None:
        raise Problem(
            404,
            "decision_not_found",
            f"there is no decision {decision_id[:_MAX_ID_CHARS]!r}, or none any more",
            "GET /v1/decisions lists them",
        )
    parts = (record.policy, record.view, record.memory, record.decision)
    return RecordBody(_about(record), *(_as_recorded(part) for part in parts))


def _about(record: DecisionRecord) -> DecisionBody:
    return DecisionBody(
        id=record.id,
        service=record.service,
        instance=record.instance,
        at=datetime.fromtimestamp(record.at, UTC),
        policy=record.policy_name,
        reason=record.reason,
        sessions=record.sessions,
        workers=record.workers,
    )


def _as_recorded(packed: bytes) -> dict[str, Any]:
    """The JSON that is there already, without reading and writing it again: it may be megabytes."""
    return cast("dict[str, Any]", msgspec.Raw(unpack(packed)))


def router() -> Router:
    return Router("/v1/decisions", route_handlers=[list_decisions, get_decision], tags=["operations"])
