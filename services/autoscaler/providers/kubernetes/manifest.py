"""The manifest of one node's pod: the operator's template and what we add to it. Pure."""

from __future__ import annotations

import copy

from lightkube.models.core_v1 import EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from services.autoscaler.providers.kubernetes.template import NodeTemplate, worker_of

WORKERS = "turboserve/workers"
"""Annotation: how many workers the pod has, kept with it since the template may change meanwhile."""

_CELL = "turboserve/cell"
_LABELS = {
    "app.kubernetes.io/name": "turboserve",
    "app.kubernetes.io/component": "worker",
    "app.kubernetes.io/managed-by": "turboserve-autoscaler",
}
_GRACE_S = 120


def labels(cell: str) -> dict[str, str]:
    """What every pod of the cell has, and no other."""
    return _LABELS | {_CELL: cell}


def pod_of(template: NodeTemplate, cell: str, name: str, model: str = "") -> Pod:
    """The pod to create. `model` "": the template's or the worker's default."""
    pod = copy.deepcopy(template.pod)
    metadata, spec = pod.metadata or ObjectMeta(), pod.spec or PodSpec(containers=[])
    metadata.name = name
    metadata.labels = (metadata.labels or {}) | labels(cell)
    metadata.annotations = (metadata.annotations or {}) | {WORKERS: str(template.workers)}
    pod.metadata, pod.spec = metadata, spec
    spec.restartPolicy = "Never"  # who ends is replaced by a pod of another name, wherever there is room
    spec.enableServiceLinks = False  # its variables look like settings of ours
    if spec.automountServiceAccountToken is None:
        spec.automountServiceAccountToken = False
    spec.terminationGracePeriodSeconds = spec.terminationGracePeriodSeconds or _GRACE_S
    container = worker_of(spec)
    container.command = container.command or ["turboserve", "node"]
    container.terminationMessagePolicy = container.terminationMessagePolicy or "FallbackToLogsOnError"
    container.env = _environment(
        container.env or [],
        {
            "TURBOSERVE_CELL": cell,
            "TURBOSERVE_NODE_NAME": name,
            "TURBOSERVE_NODE_WORKERS": str(template.workers),
            "TURBOSERVE_NODE_GRACE_S": str(spec.terminationGracePeriodSeconds),
            **({"TURBOSERVE_WORKER_MODEL": model} if model else {}),
        },
    )
    return pod


def _environment(given: list[EnvVar], ours: dict[str, str]) -> list[EnvVar]:
    """Ours win. Other workers reach these under the pod's address, unless the template knows better."""
    environment = [pair for pair in given if pair.name not in ours]
    environment += [EnvVar(name, value=value) for name, value in ours.items()]
    if not any(pair.name == "TURBOSERVE_WORKER_TRANSFER_HOST" for pair in environment):
        address = EnvVarSource(fieldRef=ObjectFieldSelector("status.podIP"))
        environment.append(EnvVar("TURBOSERVE_WORKER_TRANSFER_HOST", valueFrom=address))
    return environment
