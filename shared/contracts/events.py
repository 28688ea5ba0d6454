"""Public lifecycle events: CloudEvents 1.0 in JSON mode on a durable JetStream stream, for other platforms.

Written to the outbox in the same transaction as the row they tell of, published with the event id as
`Nats-Msg-Id`, so that a crash between the two loses nothing and repeats nothing inside the stream's duplicate
window.
"""

from __future__ import annotations

import msgspec

from shared.contracts.session import SessionView
from shared.ids import check_name

TYPE_PREFIX = "dev.turboserve.session."

EVENT_NAMES = (
    "opened",
    "started",
    "steered",
    "paused",
    "resumed",
    "moved",
    "closed",
    "failed",
)
"""`started`: a worker owns it for the first time. `moved`: another worker owns it. The list may grow."""


class SessionEventData(msgspec.Struct, frozen=True):
    """The row after the change, and what was before."""

    session: SessionView
    previous_status: str = ""


class CloudEvent(msgspec.Struct, frozen=True):
    """CloudEvents 1.0 (https://cloudevents.io): `time` is RFC 3339, `subject` the session id, `traceparent`
    the distributed-tracing extension."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: SessionEventData
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    traceparent: str = ""


def lifecycle_stream(cell: str) -> str:
    """Name of the JetStream stream that keeps a cell's events."""
    return f"TS_{check_name('cell', cell)}_EVENTS"


def lifecycle_subject(cell: str, tenant: str, event_name: str) -> str:
    tail = f"{check_name('tenant', tenant)}.{check_name('event', event_name)}"
    return f"ts.{check_name('cell', cell)}.events.{tail}"


def lifecycle_pattern(cell: str) -> str:
    return f"ts.{check_name('cell', cell)}.events.>"
