"""What a pod's status says of the node in it, in the few words that count here. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
from lightkube.models.core_v1 import ContainerStateTerminated, ContainerStatus, PodCondition
from lightkube.resources.core_v1 import Pod

from services.autoscaler.providers.kubernetes.manifest import WORKERS
from services.autoscaler.providers.kubernetes.template import CONTAINER
from shared.last_words import error_message

_HOPELESS = frozenset(
    "ImagePullBackOff ErrImagePull InvalidImageName ErrImageNeverPull CreateContainerConfigError "
    "CreateContainerError RunContainerError CrashLoopBackOff".split()
)
"""Reasons for waiting that time seldom cures, while the machine is paid for."""
_LONGEST_CHARS = 300


class Sight(msgspec.Struct, frozen=True):
    """`state`: "waiting" (for a machine, an image, its container), "running", "ended". `words`: why it waits
    or ended, "" if there's nothing to say. `hopeless`: it waits for what hardly comes. `leaving`: it was told
    to end.
    """

    state: Literal["waiting", "running", "ended"]
    words: str = ""
    hopeless: bool = False
    exit_code: int | None = None
    leaving: bool = False


def look(pod: Pod) -> Sight:
    leaving = pod.metadata is not None and pod.metadata.deletionTimestamp is not None
    phase = (pod.status and pod.status.phase) or "Pending"
    container = _container(pod)
    state = container.state if container else None
    if phase in ("Succeeded", "Failed") or (state and state.terminated):
        ended = state.terminated if state else None
        return Sight("ended", _why_ended(pod, ended), False, ended.exitCode if ended else None, leaving)
    if state and state.running:
        return Sight("running", leaving=leaving)
    reason, words = _why_waiting(pod, container)
    return Sight("waiting", words[:_LONGEST_CHARS], reason in _HOPELESS, leaving=leaving)


def workers_of(pod: Pod) -> tuple[str, ...]:
    """Ids of the workers in it: its name and their number. Nobody else may have written the annotation."""
    told = ((pod.metadata and pod.metadata.annotations) or {}).get(WORKERS, "1")
    return tuple(f"{name_of(pod)}-{index}" for index in range(int(told) if told.isdecimal() else 1))


def name_of(pod: Pod) -> str:
    return (pod.metadata and pod.metadata.name) or ""


def created_at(pod: Pod) -> float | None:
    """Seconds since the epoch, by the cluster's clock."""
    made = pod.metadata.creationTimestamp if pod.metadata else None
    return made.timestamp() if made else None


def _container(pod: Pod) -> ContainerStatus | None:
    statuses = (pod.status and pod.status.containerStatuses) or []
    return next((status for status in statuses if status.name == CONTAINER), None)


def _why_waiting(pod: Pod, container: ContainerStatus | None) -> tuple[str, str]:
    """The reason as Kubernetes calls it, and in words."""
    waiting = container.state.waiting if container and container.state else None
    if waiting and waiting.reason and waiting.reason != "ContainerCreating":
        return waiting.reason, ": ".join(filter(None, (waiting.reason, waiting.message)))
    if (condition := _condition(pod, "PodScheduled")) and condition.status != "True":
        reason = condition.reason or "Unscheduled"
        return reason, ": ".join(filter(None, (reason, condition.message)))
    if condition:
        return "", "its container is being made"
    return "", "waits for a machine"


def _why_ended(pod: Pod, ended: ContainerStateTerminated | None) -> str:
    """The pod's own reason (Evicted, Preempting, …) says more than what became of the container."""
    status = pod.status
    told = ": ".join(filter(None, (status.reason, status.message))) if status else ""
    if ended is None:
        return (told or "the pod ended without a word")[:_LONGEST_CHARS]
    words = f"exit code {ended.exitCode}"
    if ended.reason not in (None, "Error", "Completed"):
        words += f" ({ended.reason})"
    said = _last_words(ended.message or "")
    return "; ".join(filter(None, (told, f"{words}: {said}" if said else words)))[:_LONGEST_CHARS]


def _last_words(tail: str) -> str:
    """The newest error in the end of the container's log, or else its last line."""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [message for line in lines if (message := error_message(line))]
    return (errors or lines or [""])[-1]


def _condition(pod: Pod, kind: str) -> PodCondition | None:
    conditions = (pod.status and pod.status.conditions) or []
    return next((condition for condition in conditions if condition.type == kind), None)
