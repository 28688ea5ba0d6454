"""The Kubernetes provider against an API server: the emulator of tests/fixtures/cluster.py, or, where
TEST_KUBECONFIG names a kubeconfig, a real one (without nodes: the tests play scheduler and kubelet).
"""

import asyncio
import contextlib
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from lightkube import AsyncClient, KubeConfig
from lightkube.models.core_v1 import ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod, PodBinding, PodStatus
from lightkube.types import PatchType

from services.autoscaler.provider import Exit, Member
from services.autoscaler.providers.kubernetes.cluster import Cluster, ClusterError
from services.autoscaler.providers.kubernetes.provider import KubernetesProvider, try_out
from services.autoscaler.providers.kubernetes.template import parse_template
from services.autoscaler.settings import AutoscalerSettings
from shared.process import StartupError
from tests.fixtures.cluster import ApiProblem, ClusterEmulator, kubeconfig
from tests.fixtures.waiting import until

REAL = os.environ.get("TEST_KUBECONFIG", "")
emulated = pytest.mark.skipif(bool(REAL), reason="a real API server can't be made to fail like this")
TEMPLATE = b"""
apiVersion: v1
kind: Pod
spec:
  containers:
    - name: worker
      image: turboserve-worker:0.1.0
      resources: {limits: {nvidia.com/gpu: 2}}
"""
STARTED = "2026-01-01T00:00:00Z"


class World:
    """One cell: its provider, what that said of ends, and the kubelet's part."""

    def __init__(self, config: KubeConfig, emulator: ClusterEmulator) -> None:
        self.emulator = emulator
        self.exits: list[Exit] = []
        self.cell = f"cell-{secrets.token_hex(4)}"
        self.config = config
        self.client = AsyncClient(config)

    @asynccontextmanager
    async def provider(self, **settings: Any) -> AsyncIterator[KubernetesProvider]:
        cluster = Cluster(AsyncClient(self.config), self.cell)
        chosen = AutoscalerSettings(provider="kubernetes", cell=self.cell, **settings)
        provider = KubernetesProvider(chosen, parse_template(TEMPLATE), cluster, self.exits.append)
        await provider.open()
        try:
            yield provider
        finally:
            await provider.close()

    async def pods(self) -> dict[str, Pod]:
        found = self.client.list(Pod, labels={"turboserve/cell": self.cell})
        return {str(pod.metadata and pod.metadata.name): pod async for pod in found}

    async def told_to_end(self, name: str) -> bool:
        metadata = (await self.pods())[name].metadata
        return metadata is not None and metadata.deletionTimestamp is not None

    async def bind(self, name: str) -> None:
        target = ObjectReference(kind="Node", name="machine-1")
        with contextlib.suppress(msgspec.ValidationError):  # the client expects another answer than comes
            await self.client.create(PodBinding(target, metadata=ObjectMeta(name=name)), name)

    async def say(self, name: str, phase: str, state: dict[str, Any] | None = None, **status: Any) -> None:
        """The kubelet's report on the container `worker`."""
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
        body = {"status": {"phase": phase, **status}}
        await self.client.patch(PodStatus, name, body, patch_type=PatchType.MERGE)

    async def run(self, name: str) -> None:
        await self.bind(name)
        await self.say(name, "Running", {"running": {"startedAt": STARTED}})

    async def end(self, name: str) -> None:
        """The kubelet's last word on a pod that was told to end."""
        await self.client.delete(Pod, name, grace_period=0)

    async def close(self) -> None:
        for name in await self.pods():
            await self.end(name)
        await self.client.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    emulator = ClusterEmulator()
    async with emulator.serving() as url:
        world = World(KubeConfig.from_file(REAL) if REAL else KubeConfig.from_dict(kubeconfig(url)), emulator)
        yield world
        await world.close()


def node_of(member: Member) -> str:
    return member.node


async def test_a_node_is_ordered_waits_runs_and_is_stopped(world: World) -> None:
    async with world.provider() as provider:
        assert provider.node_size == 2
        workers = await provider.start()
        [name] = await world.pods()
        assert list(workers) == [f"{name}-0", f"{name}-1"]
        waiting = provider.members()
        assert [(m.worker, m.state, m.node, m.runs_since) for m in waiting] == [
            (worker, "alive", name, None) for worker in workers
        ]
        await world.run(name)
        await until(lambda: all(m.runs_since for m in provider.members()), "the pod to run")
        await provider.stop(workers[:1])
        assert not await world.told_to_end(name), "the other one may go on"
        await provider.stop(workers)
        await until(lambda: {m.state for m in provider.members()} == {"stopping"}, "the pod to be told")
        await world.end(name)
        await until(lambda: not provider.members(), "the pod to be gone")
    assert sorted((e.worker, e.expected) for e in world.exits) == [(worker, True) for worker in workers]


async def test_whoever_comes_next_finds_the_nodes_and_nothing_is_doubled(world: World) -> None:
    async with world.provider() as provider:
        await provider.start()
        [name] = await world.pods()
        await world.run(name)
        ordered = provider.members()
    another = World(world.config, world.emulator)
    async with world.provider() as provider, another.provider() as elsewhere:
        assert [m.worker for m in provider.members()] == [m.worker for m in ordered]
        assert elsewhere.members() == (), "each cell has its own"
        await provider.start()
        await until(lambda: len(provider.members()) == 4, "both nodes")
    assert len(await world.pods()) == 2
    assert world.exits == []
    await another.close()


async def test_a_pod_that_ends_tells_why_and_is_cleared_away(world: World) -> None:
    async with world.provider() as provider:
        workers = await provider.start()
        [name] = await world.pods()
        await world.bind(name)
        said = 'starting\n{"level": "critical", "message": "worker cannot start: no weights"}\n'
        ended = {
            "exitCode": 69,
            "reason": "Error",
            "message": said,
            "startedAt": STARTED,
            "finishedAt": STARTED,
        }
        await world.say(name, "Failed", {"terminated": ended})
        await until(lambda: len(world.exits) == 2, "the end to be told")
        await until(lambda: not provider.members(), "no members")
        async with asyncio.timeout(15.0):
            while await world.pods():
                await asyncio.sleep(0.01)
    assert [(e.worker, e.exit_code, e.expected) for e in world.exits] == [(w, 69, False) for w in workers]
    assert world.exits[0].detail == f"{name}: exit code 69: worker cannot start: no weights"


async def test_a_pod_that_nobody_has_room_for_is_given_up(world: World) -> None:
    async with world.provider(schedule_deadline_s=0.1) as provider:
        await provider.start()
        [name] = await world.pods()
        words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
        await world.say(name, "Pending", conditions=[condition])
        await until(lambda: len(world.exits) == 2, "the pod to be given up")
        assert provider.members() == ()
        async with asyncio.timeout(15.0):
            while await world.pods():
                await asyncio.sleep(0.01)
    assert not any(e.expected for e in world.exits)
    assert "not running within 0.1 s" in world.exits[0].detail


async def test_a_pod_taken_away_from_outside_was_told_to_end(world: World) -> None:
    """As the drain of a machine does."""
    async with world.provider() as provider:
        await provider.start()
        [name] = await world.pods()
        await world.run(name)
        await until(lambda: all(m.runs_since for m in provider.members()), "the pod to run")
        await world.client.delete(Pod, name)
        await until(lambda: {m.state for m in provider.members()} == {"stopping"}, "the pod to be told")
        await world.end(name)
        await until(lambda: len(world.exits) == 2, "the end to be told")
    assert all(e.expected for e in world.exits)


async def test_one_that_hangs_is_given_up_alone_and_the_last_one_with_its_pod(world: World) -> None:
    async with world.provider() as provider:
        first, second = await provider.start()
        [name] = await world.pods()
        await world.run(name)
        await provider.kill(first)
        assert [m.worker for m in provider.members()] == [second]
        assert not await world.told_to_end(name)
        await provider.kill(second)
        assert await world.told_to_end(name)
    assert [(e.worker, e.expected) for e in world.exits] == [(first, False), (second, False)]


async def test_a_template_that_the_cluster_refuses_ends_the_start_in_words(world: World) -> None:
    wrong = parse_template(
        TEMPLATE.replace(b"worker:0.1.0", b"worker").replace(
            b"spec:", b"metadata: {labels: {a: b}}\nspec:\n  nodeName: 'a b'"
        )
    )
    cluster = Cluster(AsyncClient(world.config), world.cell)
    settings = AutoscalerSettings(provider="kubernetes", cell=world.cell)
    world.emulator.failing["POST"] = deque([ApiProblem(422, "Invalid", "Pod is invalid: spec.nodeName")])
    with pytest.raises(StartupError, match=r"would not take the pod template: .*nodeName"):
        await try_out(wrong, cluster, settings)
    await cluster.close()


@emulated
async def test_an_answer_that_is_lost_makes_no_second_pod(world: World) -> None:
    async with world.provider() as provider:
        world.emulator.answers_lost = 1
        workers = await provider.start()
        await until(lambda: len(provider.members()) == 2, "the node")
        assert [m.worker for m in provider.members()] == list(workers)
    assert world.emulator.created == 1


@emulated
async def test_what_happened_while_nobody_watched_is_seen_afterwards(world: World) -> None:
    async with world.provider() as provider:
        await provider.start()
        await provider.start()
        gone, stays = await world.pods()
        await until(lambda: world.emulator.watches > 0, "the watch")
        world.emulator.failing["WATCH"] = deque([ApiProblem(503, "ServiceUnavailable", "not now")])
        world.emulator.hang_up()
        await world.end(gone)
        await world.run(stays)
        world.emulator.forget()
        await until(lambda: {m.node for m in provider.members()} == {stays}, "one node to be gone")
        await until(lambda: all(m.runs_since for m in provider.members()), "the other to run")
        await provider.start()
        await until(lambda: len(provider.members()) == 4, "the watch to go on")
    assert {e.worker for e in world.exits} == {f"{gone}-0", f"{gone}-1"}


@emulated
async def test_a_refusal_is_said_at_once_and_a_passing_failure_tried_again(world: World) -> None:
    async with world.provider() as provider:
        refusal = ApiProblem(403, "Forbidden", "exceeded quota: gpus")
        world.emulator.failing["POST"] = deque([refusal])
        with pytest.raises(ClusterError, match="can't create a pod: exceeded quota: gpus"):
            await provider.start()
        assert provider.members() == ()
        world.emulator.failing["POST"] = deque([refusal])
        settings = AutoscalerSettings(provider="kubernetes", cell=world.cell)
        await try_out(parse_template(TEMPLATE), provider._cluster, settings)  # no reason not to start
        world.emulator.failing["POST"] = deque([ApiProblem(503, "ServiceUnavailable", "not now")])
        await provider.start()
        assert len(provider.members()) == 2
    assert world.emulator.created == 1
