"""What a pod's status says, and what follows from it for its workers."""

from typing import Any

import msgspec
import pytest
from lightkube.resources.core_v1 import Pod

from services.autoscaler.providers.kubernetes.node import HOPELESS_S, Node
from services.autoscaler.providers.kubernetes.sight import Sight, look, workers_of

SCHEDULED = {"type": "PodScheduled", "status": "True"}
NO_ROOM = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
AT = "2026-01-01T00:00:00Z"


def pod(phase: str, state: dict[str, Any] | None = None, *, deleted: bool = False, **status: Any) -> Pod:
    if state is not None:
        about = {
            "name": "worker",
            "ready": False,
            "restartCount": 0,
            "image": "",
            "imageID": "",
            "state": state,
        }
        status["containerStatuses"] = [about]
    metadata = {"name": "node-1", "annotations": {"turboserve/workers": "2"}}
    if deleted:
        metadata["deletionTimestamp"] = AT
    return msgspec.convert({"metadata": metadata, "status": {"phase": phase, **status}}, Pod, strict=False)


def ended(exit_code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("seen", "sight"),
    [
        (pod("Pending"), Sight("waiting", "waits for a machine")),
        (pod("Pending", conditions=[NO_ROOM]), Sight("waiting", "Unschedulable: 0/3 nodes")),
        (pod("Pending", conditions=[SCHEDULED]), Sight("waiting", "its container is being made")),
        (
            pod("Pending", waits("ContainerCreating"), conditions=[SCHEDULED]),
            Sight("waiting", "its container is being made"),
        ),
        (
            pod("Pending", waits("ImagePullBackOff", "no such image"), conditions=[SCHEDULED]),
            Sight("waiting", "ImagePullBackOff: no such image", hopeless=True),
        ),
        (pod("Running", {"running": {"startedAt": AT}}), Sight("running")),
        (pod("Running", {"running": {}}, deleted=True), Sight("running", leaving=True)),
        (pod("Running", ended(137, "OOMKilled")), Sight("ended", "exit code 137 (OOMKilled)", exit_code=137)),
        (pod("Succeeded", ended(0, "Completed")), Sight("ended", "exit code 0", exit_code=0)),
        (pod("Failed", ended(1, message="a\nb: c\n")), Sight("ended", "exit code 1: b: c", exit_code=1)),
        (pod("Failed", reason="Evicted", message="no memory"), Sight("ended", "Evicted: no memory")),
    ],
)  # fmt: skip
def test_what_a_status_says(seen: Pod, sight: Sight) -> None:
    assert look(seen) == sight
    assert workers_of(seen) == ("node-1-0", "node-1-1")


def node() -> Node:
    return Node("node-1", ("node-1-0", "node-1-1"), started_at=100.0, known_since=100.0)


def test_waiting_for_a_machine_has_a_deadline_and_running_ends_it() -> None:
    waiting = node()
    waiting.see(Sight("waiting", "Unschedulable: no room"), 101.0)
    assert waiting.overdue(600.0, 700.0) == ""
    assert waiting.overdue(600.0, 701.0) == "not running within 600 s: Unschedulable: no room"
    assert [(m.runs_since, m.detail) for m in waiting.members()] == [(None, "Unschedulable: no room")] * 2
    waiting.see(Sight("running"), 699.0)
    assert waiting.overdue(600.0, 9000.0) == ""
    assert [(m.started_at, m.runs_since) for m in waiting.members()] == [(100.0, 699.0)] * 2


def test_what_hardly_comes_is_not_paid_for_long() -> None:
    waiting, bad = node(), Sight("waiting", "ImagePullBackOff", hopeless=True)
    waiting.see(bad, 200.0)
    waiting.see(Sight("waiting", "its container is being made"), 230.0)
    waiting.see(bad, 240.0)
    assert waiting.overdue(600.0, 240.0 + HOPELESS_S) == ""
    assert "given up after 60 s of ImagePullBackOff" in waiting.overdue(600.0, 241.0 + HOPELESS_S)


def test_one_that_was_given_up_keeps_no_pod_whose_others_were_let_go() -> None:
    one = node()
    one.told.add("node-1-1")
    assert not one.kept_by_the_dead
    one.ended.add("node-1-0")
    assert one.kept_by_the_dead


def test_an_end_is_told_once_and_expected_of_those_that_were_told() -> None:
    one = node()
    one.told.add("node-1-1")
    exits = one.see(Sight("ended", "exit code 1", exit_code=1), 300.0)
    assert [(e.worker, e.exit_code, e.expected) for e in exits] == [
        ("node-1-0", 1, False),
        ("node-1-1", 1, True),
    ]
    assert (one.doomed, one.members()) == (True, [])
    assert one.see(Sight("ended", "exit code 1", exit_code=1), 301.0) == []
    assert one.end(None, "its pod is gone") == []
