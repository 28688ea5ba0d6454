"""The AsyncAPI 3.0 document of every subject: `python -m shared.contracts.asyncapi > docs/asyncapi.yaml`.

Made from the structs and subjects alone, so it can't say anything else than the code does. Its operations are
those of a platform that drives sessions and follows their events over NATS; the other channels are what the
services say to each other, listed so that whoever watches the bus can read it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from shared.contracts import subjects
from shared.contracts.events import EVENT_NAMES, CloudEvent
from shared.contracts.session import Refusal
from shared.contracts.subjects import Request, Subject

Json = dict[str, Any]

SENDS = (
    "open",
    "steer",
    "pause",
    "resume",
    "set_rung",
    "close",
    "get",
    "list",
    "viewers",
    "check_prompt",
)
RECEIVES = ("chunks", "chunk_ready", "session_changed", "events", "fleet_load")

_MSGPACK = "application/vnd.msgpack"
_EVENTS_JSON = "application/cloudevents+json"

_PARAMETERS = {
    "cell": "The part of a fleet that one placement serves; the first part of a session id.",
    "tenant": "Whose session it is.",
    "session": "Id of the session.",
    "worker": "Id of the worker.",
    "place": "Which of the session's window of latents, from 0: a later chunk takes the place of an earlier.",
    "model": "Name of the model, dots written as hyphens.",
    "encoder": "Name of the text encoder.",
    "service": "gateway, placement, autoscaler, worker or text.",
    "instance": "Id of one process.",
    "id": "Id of the decision.",
    "event": f"What happened: {', '.join(EVENT_NAMES)}. The list may grow.",
}
_NOTES = {
    "chunks": (
        "The chunk log: JetStream stream TS_{cell}_CHUNKS, in memory, bounded by age and size. Read it by "
        "direct get ($JS.API.DIRECT.GET.TS_{cell}_CHUNKS with next_by_subj and seq). Only the owning worker "
        "appends, with Nats-Expected-Last-Subject-Sequence: the sequence of the session's chunk before, or 0."
    ),
    "events": (
        "JetStream stream TS_{cell}_EVENTS, kept in files. Read it with a durable consumer. An event may be "
        "published again after a crash: its id is the same, and is Nats-Msg-Id."
    ),
    "viewers": (
        "Repeat it every second while somebody watches: without viewers a session is paused, then closed."
    ),
}


def document() -> Json:
    families = {name.lower(): value for name, value in vars(subjects).items() if isinstance(value, Subject)}
    replies = {family.reply for family in families.values() if isinstance(family, Request)} | {Refusal}
    structs = sorted({family.struct for family in families.values()} | replies, key=lambda s: s.__name__)
    return {
        "asyncapi": "3.0.0",
        "info": _info(),
        "defaultContentType": _MSGPACK,
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {name: _channel(name, f.template, [f.struct]) for name, f in families.items()}
        | {"events": _channel("events", "ts.{cell}.events.{tenant}.{event}", [CloudEvent])}
        | {"replies": {"address": None, "messages": _messages(replies)}},
        "operations": {name: _operation("send", name, families[name]) for name in SENDS}
        | {name: _operation("receive", name, families.get(name)) for name in RECEIVES},
        "components": {
            "messages": {struct.__name__: _message(struct) for struct in [*structs, CloudEvent]},
            "schemas": _schemas([*structs, CloudEvent]),
        },
    }


def _info() -> Json:
    return {
        "title": "turboserve over NATS",
        "version": "1",
        "description": (
            "MessagePack maps, except for the lifecycle events, which are CloudEvents JSON. Readers skip "
            "fields they don't know; fields with a default may be left out. See docs/nats.md."
        ),
        "license": {"name": "Apache-2.0"},
    }


def _channel(name: str, address: str, structs: Iterable[type[msgspec.Struct]]) -> Json:
    tokens = [part[1:-1] for part in address.split(".") if part.startswith("{")]
    channel: Json = {
        "address": address,
        "messages": _messages(structs),
        "parameters": {token: {"description": _PARAMETERS[token]} for token in tokens},
    }
    return channel | ({"description": _NOTES[name]} if name in _NOTES else {})


def _messages(structs: Iterable[type[msgspec.Struct]]) -> Json:
    names = sorted(struct.__name__ for struct in structs)
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(action: str, name: str, family: Subject[Any] | None) -> Json:
    operation: Json = {"action": action, "channel": {"$ref": f"#/channels/{name}"}}
    if isinstance(family, Request):
        answers = (family.reply, Refusal)
        operation["reply"] = {
            "channel": {"$ref": "#/channels/replies"},
            "messages": [{"$ref": f"#/channels/replies/messages/{answer.__name__}"} for answer in answers],
        }
    return operation


def _message(struct: type[msgspec.Struct]) -> Json:
    message: Json = {
        "name": struct.__name__,
        "contentType": _EVENTS_JSON if struct is CloudEvent else _MSGPACK,
        "payload": {"$ref": f"#/components/schemas/{struct.__name__}"},
    }
    if struct.__doc__:
        message["summary"] = _unwrapped(struct.__doc__)[0]
    return message | {"headers": _headers(struct)}


def _headers(struct: type[msgspec.Struct]) -> Json:
    if struct is Refusal:
        code = {"type": "string", "description": "The refusal's code. Only a refusal has this header."}
        return {"type": "object", "required": ["Ts-Error"], "properties": {"Ts-Error": code}}
    if struct is CloudEvent:
        event_id = {"type": "string", "description": "The event's id."}
        return {"type": "object", "properties": {"Nats-Msg-Id": event_id}}
    trace = {"type": "string", "description": "W3C Trace Context, if the sender is in a trace."}
    return {"type": "object", "properties": {"traceparent": trace, "tracestate": trace}}


def _schemas(structs: Iterable[type[msgspec.Struct]]) -> Json:
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    schemas["Chunk"]["properties"]["media"] = {"type": "string", "format": "binary"}
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = "\n\n".join(_unwrapped(schema["description"]))
    return {name: schemas[name] for name in sorted(schemas)}


def _unwrapped(docstring: str) -> list[str]:
    """Its paragraphs, each one line."""
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(docstring).split("\n\n")]


def main() -> None:
    sys.stdout.buffer.write(msgspec.yaml.encode(document()))


if __name__ == "__main__":
    main()
