"""docs/asyncapi.yaml is what the code says, and an AsyncAPI 3.0 document whose parts fit together."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.contracts import asyncapi, subjects
from shared.contracts.events import lifecycle_subject

COMMITTED = Path(__file__).parent.parent.parent / "docs" / "asyncapi.yaml"


@pytest.fixture(scope="module")
def document() -> Any:
    return msgspec.yaml.decode(COMMITTED.read_bytes())


def test_the_committed_document_is_current(document: Any) -> None:
    assert document == asyncapi.document(), "python -m shared.contracts.asyncapi > docs/asyncapi.yaml"


def test_every_reference_leads_somewhere(document: Any) -> None:
    references = list(_references(document))
    assert len(references) > 100
    for reference in references:
        assert isinstance(_resolve(document, reference), dict), reference


def test_every_subject_is_a_channel(document: Any) -> None:
    addresses = [channel["address"] for channel in document["channels"].values()]
    expected = [family.template for family in subjects.ALL] + ["ts.{cell}.events.{tenant}.{event}", None]
    assert sorted(map(str, addresses)) == sorted(map(str, expected))
    filled = "ts.{cell}.events.{tenant}.{event}".format(cell="main", tenant="default", event="opened")
    assert filled == lifecycle_subject("main", "default", "opened")


def test_channels_explain_exactly_their_parameters(document: Any) -> None:
    for channel in document["channels"].values():
        in_address = re.findall(r"{(\w+)}", channel["address"] or "")
        assert list(channel.get("parameters", {})) == in_address
        assert channel["messages"]


def test_replies_belong_to_the_channel_of_replies(document: Any) -> None:
    replying = [operation["reply"] for operation in document["operations"].values() if "reply" in operation]
    assert len(replying) == 9
    for reply in replying:
        assert reply["channel"] == {"$ref": "#/channels/replies"}
        for message in reply["messages"]:
            assert message["$ref"].startswith("#/channels/replies/messages/")
        assert reply["messages"][-1]["$ref"].endswith("/Refusal")


def test_nothing_is_listed_that_nothing_refers_to(document: Any) -> None:
    referred = set(_references(document))
    for kind in ("messages", "schemas"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in referred


def test_a_document_has_what_asyncapi_3_requires(document: Any) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert document["info"].keys() >= {"title", "version"}
    assert all({"host", "protocol"} <= server.keys() for server in document["servers"].values())
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].startswith("#/channels/")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _references(inner)


def _resolve(document: Any, reference: str) -> Any:
    node = document
    for key in reference.removeprefix("#/").split("/"):
        node = node[key]
    return node
