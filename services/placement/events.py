"""A session's public events, as they go into the outbox."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from shared import telemetry
from shared.contracts.events import TYPE_PREFIX, CloudEvent, SessionEventData, lifecycle_subject
from shared.store.outbox import OutboxEvent
from shared.store.rows import SessionRow


def make_event(name: str, row: SessionRow, previous_status: str) -> OutboxEvent:
    """`name`: one of `EVENT_NAMES`. Its id says which change of which session it tells of."""
    event = CloudEvent(
        id=f"{row.id}.{row.revision}.{name}",
        source=f"/turboserve/{row.cell}/placement",
        type=TYPE_PREFIX + name,
        subject=row.id,
        time=datetime.fromtimestamp(row.updated_at, UTC).isoformat().replace("+00:00", "Z"),
        data=SessionEventData(row.view(), previous_status),
        traceparent=telemetry.traceparent() or row.traceparent,
    )
    return OutboxEvent(event.id, lifecycle_subject(row.cell, row.tenant, name), msgspec.json.encode(event))
