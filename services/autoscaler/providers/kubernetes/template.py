"""An operator's template of the pod that a node of workers is started as, checked once at start.

The template is a Pod without a name. Its container `worker` runs `turboserve node`, which starts one process
for each of the pod's GPUs; all of them see all GPUs, so that they reach each other over NVLink.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.resources.core_v1 import Pod

from shared.process import StartupError

CONTAINER = "worker"
GPU = "nvidia.com/gpu"
_SHORTEST_GRACE_S = 30
_MOST_WORKERS = 64
_OURS = ("TURBOSERVE_NODE_NAME", "TURBOSERVE_NODE_WORKERS", "TURBOSERVE_NODE_GRACE_S", "TURBOSERVE_CELL")


class NodeTemplate(msgspec.Struct, frozen=True):
    """`workers`: how many run in one pod. `pod`: nobody may change it; `pod_of` makes copies."""

    pod: Pod
    workers: int


def read_template(path: str) -> NodeTemplate:
    """Raises StartupError, which says what is wrong and where."""
    if not path:
        raise StartupError(
            "provider=kubernetes needs a pod template: set TURBOSERVE_AUTOSCALER_POD_TEMPLATE to its file"
        )
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise StartupError(f"the pod template {path} can't be read: {error.strerror}") from None
    try:
        return parse_template(text)
    except ValueError as error:
        raise StartupError(f"the pod template {path} is no use: {error}") from None


def parse_template(text: bytes) -> NodeTemplate:
    """Raises ValueError: what is wrong, and where."""
    try:
        given = msgspec.yaml.decode(text)
        pod = msgspec.convert(given, Pod)
    except msgspec.DecodeError as error:
        raise ValueError(f"{error}".replace("`$.", "`")) from None
    if unknown := _unknown(given, pod.to_dict()):
        raise ValueError(f"Kubernetes knows no field {unknown}")
    if (given.get("apiVersion"), given.get("kind")) != ("v1", "Pod"):
        raise ValueError("it must begin with `apiVersion: v1` and `kind: Pod`")
    return NodeTemplate(pod, _check(pod))


def _check(pod: Pod) -> int:
    """How many workers it has room for. Raises ValueError."""
    if pod.metadata is not None and (pod.metadata.name or pod.metadata.generateName):
        raise ValueError("metadata.name must not be there: every pod gets a name of its own")
    if pod.spec is None:
        raise ValueError("it has no spec")
    container = worker_of(pod.spec)
    if not container.image:
        raise ValueError(f"container {CONTAINER} has no image")
    if pod.spec.restartPolicy not in (None, "Never"):
        raise ValueError("spec.restartPolicy must be Never: the autoscaler replaces what ends")
    grace_s = pod.spec.terminationGracePeriodSeconds
    if grace_s is not None and grace_s < _SHORTEST_GRACE_S:
        raise ValueError(
            f"spec.terminationGracePeriodSeconds is {grace_s}: sessions can't be handed over within less "
            f"than {_SHORTEST_GRACE_S} s"
        )
    given = {pair.name: pair.value for pair in container.env or []}
    for name in _OURS:
        if name in given and name != "TURBOSERVE_NODE_WORKERS":
            raise ValueError(f"{name} must not be set: the autoscaler sets it")
    return _workers(container, given.get("TURBOSERVE_NODE_WORKERS"))


def worker_of(spec: PodSpec) -> Container:
    named = [container for container in spec.containers if container.name == CONTAINER]
    if len(named) != 1:
        names = ", ".join(container.name for container in spec.containers) or "none"
        raise ValueError(f"it needs one container named {CONTAINER} (there: {names})")
    return named[0]


def _workers(container: Container, told: str | None) -> int:
    """One a GPU. Without GPUs: as many as TURBOSERVE_NODE_WORKERS says, or one."""
    limits: dict[str, Any] = (container.resources and container.resources.limits) or {}
    source, value = (f"the limit {GPU}", limits[GPU]) if GPU in limits else ("TURBOSERVE_NODE_WORKERS", told)
    if value is None:
        return 1
    if not str(value).isdecimal() or not 1 <= int(value) <= _MOST_WORKERS:
        raise ValueError(
            f"{source} of container {CONTAINER} is {value!r}, not a number from 1 to {_MOST_WORKERS}"
        )
    if told is not None and str(value) != told:
        raise ValueError(
            f"TURBOSERVE_NODE_WORKERS is {told}, but the pod has {value} GPUs: leave it out, each gets one"
        )
    return int(value)


def _unknown(given: Any, known: Any, path: str = "") -> str:
    """The first field that was given and means nothing to Kubernetes, "" if there is none. Empty ones count
    as absent.
    """
    if isinstance(given, dict):
        pairs = [(f"{path}.{key}".lstrip("."), key, value) for key, value in given.items()]
        for place, key, value in pairs:
            if value in (None, {}, [], "", 0, False):
                continue
            if not isinstance(known, dict) or key not in known:
                return place
            if found := _unknown(value, known[key], place):
                return found
    if isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=True)):
            if found := _unknown(one, other, f"{path}[{index}]"):
                return found
    return ""
