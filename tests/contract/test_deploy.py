"""What deploy/ says to the services is what they understand."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.autoscaler.providers.kubernetes.manifest import pod_of
from services.autoscaler.providers.kubernetes.template import parse_template
from services.node.settings import NodeSettings
from shared.settings import SERVICES, load
from turboserve.service_command import settings_of

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
PLACEHOLDER = "nats://somewhere:4222"


def compose() -> Any:
    return msgspec.yaml.decode((DEPLOY / "compose.yaml").read_bytes())


def manifests() -> list[Any]:
    text = (DEPLOY / "kubernetes" / "turboserve.yaml").read_text()
    return [msgspec.yaml.decode(part) for part in text.split("\n---\n")]


def node_template() -> bytes:
    return (DEPLOY / "kubernetes" / "node.yaml").read_bytes()


def workloads() -> dict[str, tuple[Any, Any]]:
    """Pod and container of each Deployment, and of the template of nodes, by the container's name."""
    pods = [m["spec"]["template"]["spec"] for m in manifests() if m["kind"] == "Deployment"]
    pods.append(msgspec.yaml.decode(node_template())["spec"])
    return {container["name"]: (pod, container) for pod in pods for container in pod["containers"]}


@pytest.mark.parametrize("service", [service for service in SERVICES if service != "node"])
def test_compose_gives_settings_that_the_service_knows(service: str) -> None:
    environment = compose()["services"][service]["environment"]
    filled = {name: re.sub(r"\$\{\w+(:-)?\}", "x", str(value)) for name, value in environment.items()}
    settings = load(settings_of(service), service, filled, {})
    assert settings.nats_url.startswith(f"nats://{service}:")


@pytest.mark.parametrize("service", [service for service in SERVICES if service != "node"])
def test_kubernetes_gives_settings_that_the_service_knows(service: str) -> None:
    pod, container = workloads()[service]
    environ = {pair["name"]: pair.get("value", PLACEHOLDER) for pair in container["env"]}
    settings = load(settings_of(service), service, environ, {})
    port = settings.metrics_port or getattr(settings, "port", 0)
    assert [named["containerPort"] for named in container["ports"]] == [port]
    assert container["livenessProbe"]["httpGet"]["port"] == container["ports"][0]["name"]
    if service != "worker":
        assert pod["enableServiceLinks"] is False


def test_a_node_is_made_of_its_template_and_runs() -> None:
    template = parse_template(node_template())
    pod = pod_of(template, "main", "node-1").to_dict()["spec"]
    [container] = pod["containers"]
    assert template.workers == int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert (pod["enableServiceLinks"], container["command"]) == (False, ["turboserve", "node"])
    environ = {pair["name"]: pair.get("value", PLACEHOLDER) for pair in container["env"]}
    settings = load(NodeSettings, "node", environ, {})
    assert (settings.name, settings.workers) == ("node-1", template.workers)
    assert settings.grace_s == pod["terminationGracePeriodSeconds"]
    ports = [settings.metrics_port + 1 + index for index in range(settings.workers)]
    assert max(ports) < 65536
    load(settings_of("worker"), "worker", environ, {})


def test_two_of_each_that_leads_and_rights_for_what_the_provider_does() -> None:
    named = {(m["kind"], m["metadata"]["name"]): m for m in manifests()}
    for service in ("placement", "autoscaler"):
        name = f"turboserve-{service}"
        assert named["Deployment", name]["spec"]["replicas"] == 2
        assert named["PodDisruptionBudget", name]["spec"]["minAvailable"] == 1
    account = named["Deployment", "turboserve-autoscaler"]["spec"]["template"]["spec"]["serviceAccountName"]
    binding = named["RoleBinding", account]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    [rule] = named["Role", binding["roleRef"]["name"]]["rules"]
    assert (rule["resources"], rule["verbs"]) == (["pods"], ["create", "delete", "list", "watch"])
    kustomization = msgspec.yaml.decode((DEPLOY / "kubernetes" / "kustomization.yaml").read_bytes())
    [generated] = kustomization["configMapGenerator"]
    pod, container = workloads()["autoscaler"]
    assert {"name": "node", "configMap": {"name": generated["name"]}} in pod["volumes"]
    path = next(p["value"] for p in container["env"] if p["name"] == "TURBOSERVE_AUTOSCALER_POD_TEMPLATE")
    [mount] = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "node"]
    assert [path] == [f"{mount}/{file}" for file in generated["files"]]


def test_every_password_of_the_broker_is_asked_for_in_compose() -> None:
    wanted = set(re.findall(r"\$(NATS_\w+)", (DEPLOY / "nats.conf").read_text()))
    assert wanted == compose()["services"]["nats"]["environment"].keys()
    offered = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == offered


def test_the_image_is_made_of_what_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert [name for name in names.split() if not (ROOT / name).exists()] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.keys() >= set(SERVICES)
    settings = load(settings_of("worker"), "worker", dict(re.findall(r"(TURBOSERVE_\w+)=(\S+)", text)), {})
    assert (settings.log_format, settings.metrics_host) == ("json", "0.0.0.0")


def test_the_collector_listens_where_the_services_send() -> None:
    collector = msgspec.yaml.decode((DEPLOY / "collector.yaml").read_bytes())
    assert collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= collector[kind].keys()
