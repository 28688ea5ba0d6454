"""An operator's pod template: what is wrong with it is said in words, and what is added to it."""

from pathlib import Path

import pytest

from services.autoscaler.providers.kubernetes.manifest import WORKERS, labels, pod_of
from services.autoscaler.providers.kubernetes.template import parse_template, read_template
from shared.process import StartupError

TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {labels: {team: video}}
spec:
  tolerations: [{key: nvidia.com/gpu, operator: Exists}]
  containers:
    - {name: proxy, image: proxy}
    - name: worker
      image: turboserve-worker
      env: [{name: TURBOSERVE_NATS_URL, value: nats://nats}]
      resources: {limits: {nvidia.com/gpu: 8}}
"""


def changed(*pairs: tuple[str, str]) -> bytes:
    text = TEMPLATE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text.encode()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("spec:", "spec: [", "while parsing"),
        ("kind: Pod", "kind: Deployment", "`apiVersion: v1` and `kind: Pod`"),
        ("metadata: {", "metadata: {name: mine, ", "metadata.name must not be there"),
        ("tolerations", "tolerationz", "no field spec.tolerationz"),
        ("operator", "operater", "no field spec.tolerations[0].operater"),
        ("image: turboserve-worker", "image: 3", "got `int` - at `spec.containers[1].image`"),
        ("      image: turboserve-worker\n", "", "container worker has no image"),
        ("name: worker", "name: main", "one container named worker (there: proxy, main)"),
        ("gpu: 8", "gpu: many", "limit nvidia.com/gpu of container worker is 'many', not a number"),
        ("gpu: 8", "gpu: 0", "not a number"),
        ("spec:\n", "spec:\n  restartPolicy: Always\n", "restartPolicy must be Never"),
        ("spec:\n", "spec:\n  terminationGracePeriodSeconds: 5\n", "sessions can't be handed over"),
        ("TURBOSERVE_NATS_URL", "TURBOSERVE_NODE_NAME", "TURBOSERVE_NODE_NAME must not be set"),
        ("NATS_URL, value: nats://nats", 'NODE_WORKERS, value: "4"', "but the pod has 8 GPUs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(old: str, new: str, complaint: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the words are compared below
        parse_template(changed((old, new)))
    assert complaint in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="TURBOSERVE_AUTOSCALER_POD_TEMPLATE"):
        read_template("")
    with pytest.raises(StartupError, match=r"node\.yaml can't be read: No such file"):
        read_template(str(tmp_path / "node.yaml"))


@pytest.mark.parametrize(
    ("pairs", "workers"),
    [
        ([], 8),
        ([("gpu: 8", 'gpu: "2"')], 2),
        ([("nvidia.com/gpu: 8", "cpu: 8")], 1),
        ([("nvidia.com/gpu: 8", "cpu: 8"), ("NATS_URL, value: nats://nats", 'NODE_WORKERS, value: "3"')], 3),
    ],
)
def test_each_gpu_gets_a_worker(pairs: list[tuple[str, str]], workers: int) -> None:
    assert parse_template(changed(*pairs)).workers == workers


def test_the_pod_is_the_template_and_what_a_node_needs() -> None:
    template = parse_template(TEMPLATE.encode())
    before = template.pod.to_dict()
    pod = pod_of(template, "main", "node-1", model="sprites").to_dict()
    assert template.pod.to_dict() == before, "the template serves again"
    assert pod["metadata"]["labels"] == {"team": "video", **labels("main")}
    assert pod["metadata"]["annotations"] == {WORKERS: "8"}
    spec, container = pod["spec"], pod["spec"]["containers"][1]
    assert (spec["restartPolicy"], spec["enableServiceLinks"]) == ("Never", False)
    assert spec["tolerations"] == before["spec"]["tolerations"]
    assert spec["containers"][0] == before["spec"]["containers"][0]
    environment = {pair["name"]: pair.get("value", pair.get("valueFrom")) for pair in container["env"]}
    assert environment == {
        "TURBOSERVE_NATS_URL": "nats://nats",
        "TURBOSERVE_CELL": "main",
        "TURBOSERVE_NODE_NAME": "node-1",
        "TURBOSERVE_NODE_WORKERS": "8",
        "TURBOSERVE_NODE_GRACE_S": "120",
        "TURBOSERVE_WORKER_MODEL": "sprites",
        "TURBOSERVE_WORKER_TRANSFER_HOST": {"fieldRef": {"fieldPath": "status.podIP"}},
    }
