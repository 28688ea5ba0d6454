"""Workers in pods, a node's worth of them in each.

Which pods there are is Kubernetes' to say: this process keeps a copy of its answer, found again after a
restart by the pods' labels. They have no owner, so they outlive the autoscaler: who leads next goes on with
them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Sequence

from lightkube.resources.core_v1 import Pod

from services.autoscaler.provider import Exit, Member, OnExit
from services.autoscaler.providers.kubernetes.cluster import Cluster, ClusterError, connect
from services.autoscaler.providers.kubernetes.manifest import pod_of
from services.autoscaler.providers.kubernetes.node import Node
from services.autoscaler.providers.kubernetes.sight import Sight, created_at, look, name_of, workers_of
from services.autoscaler.providers.kubernetes.template import NodeTemplate, read_template
from services.autoscaler.providers.kubernetes.watch import Watch
from services.autoscaler.settings import AutoscalerSettings
from shared.process import StartupError

logger = logging.getLogger(__name__)

_TEND_EVERY_S = 1.0
_DELETE_AGAIN_S = 10.0
_HANGING_GRACE_S = 5
_REFUSED = frozenset({400, 401, 403, 404, 422})
_NAME_BYTES = 4


async def check(settings: AutoscalerSettings) -> None:
    """For the start of the process. Raises StartupError: no cluster, or a template that is no use."""
    template, cluster = read_template(settings.pod_template), connect(settings.namespace, settings.cell)
    try:
        await try_out(template, cluster, settings)
    finally:
        await cluster.close()


def make(settings: AutoscalerSettings, on_exit: OnExit) -> KubernetesProvider:
    """Raises StartupError: no cluster, or a template that is no use."""
    template = read_template(settings.pod_template)
    return KubernetesProvider(settings, template, connect(settings.namespace, settings.cell), on_exit)


async def try_out(template: NodeTemplate, cluster: Cluster, settings: AutoscalerSettings) -> None:
    """Ask whether such a pod would be taken: rather now than when somebody waits for it, and before this
    process leads. Raises StartupError: no. A quota that is used up, maybe by our own pods, says nothing.
    """
    pod = pod_of(template, settings.cell, "node-try-out", settings.model)
    try:
        await cluster.create(pod, dry_run=True)
    except ClusterError as error:
        if error.code in _REFUSED and "exceeded quota" not in str(error):
            raise StartupError(f"Kubernetes would not take the pod template: {error}") from None
        logger.warning("whether Kubernetes takes the pod template is not known: %s", error)


class KubernetesProvider:
    """See `Provider`. `on_exit` is called in the event loop as soon as an end is known."""

    def __init__(
        self, settings: AutoscalerSettings, template: NodeTemplate, cluster: Cluster, on_exit: OnExit
    ) -> None:
        self._settings = settings
        self._template = template
        self._cluster = cluster
        self._on_exit = on_exit
        self._nodes: dict[str, Node] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def node_size(self) -> int:
        return self._template.workers

    async def open(self) -> None:
        watch = Watch(self._cluster, self._take_over, self._change)
        await watch.list()
        self._tasks = [
            asyncio.create_task(watch.follow(), name="follow the pods"),
            asyncio.create_task(self._tend(), name="tend the pods"),
        ]

    async def close(self) -> None:
        """The pods go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cluster.close()

    def members(self) -> tuple[Member, ...]:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()  # raises: what is seen here would never change again
        return tuple(member for node in self._nodes.values() for member in node.members())

    async def start(self) -> Sequence[str]:
        name = f"node-{secrets.token_hex(_NAME_BYTES)}"
        pod = pod_of(self._template, self._settings.cell, name, self._settings.model)
        await self._cluster.create(pod)
        now = time.monotonic()
        # The watch may have been quicker.
        node = self._nodes.setdefault(name, Node(name, workers_of(pod), now, now))
        logger.info("ordered %s with %d workers", name, len(node.workers))
        return node.workers

    def release(self, worker: str) -> None:
        if node := self._node_of(worker):
            node.told.add(worker)

    async def stop(self, workers: Sequence[str]) -> None:
        """A pod ends once all its workers were named; the kubelet sees to the hard way."""
        nodes = {node.name: node for worker in workers if (node := self._node_of(worker))}
        for node in nodes.values():
            named = set(workers) & set(node.workers)
            node.told |= named
            node.stopped |= named
            if set(node.living) <= node.stopped and not node.doomed:
                node.doomed = True
                await self._delete(node)

    async def kill(self, worker: str) -> None:
        """Its process stays, unheeded, until its pod ends: that is at once if no other lives there."""
        node = self._node_of(worker)
        if node is None or worker in node.ended:
            return
        node.ended.add(worker)
        self._on_exit(
            Exit(worker, None, False, f"{node.name}: given up, its process stays until its node ends")
        )
        if not node.living and not node.doomed:
            node.doomed = True
            await self._delete(node, _HANGING_GRACE_S)

    def _take_over(self, pods: Sequence[Pod], asked_at: float) -> None:
        """All there are. One that was made after the question can be missing from the answer."""
        for pod in pods:
            self._see(pod)
        there = {name_of(pod) for pod in pods}
        for node in [n for n in self._nodes.values() if n.name not in there and n.known_since < asked_at]:
            self._gone(node)

    def _change(self, kind: str, pod: Pod) -> None:
        if kind != "DELETED":
            self._see(pod)
        elif node := self._nodes.get(name_of(pod)):
            self._tell(node.see(look(pod), time.monotonic()))
            self._gone(node)

    def _see(self, pod: Pod) -> None:
        now, name = time.monotonic(), name_of(pod)
        node = self._nodes.get(name)
        if node is None:
            made_at = created_at(pod)
            age_s = max(0.0, time.time() - made_at) if made_at is not None else 0.0
            node = self._nodes[name] = Node(name, workers_of(pod), now - age_s, now)
            logger.info("found %s with %d workers", name, len(node.workers))
        before = node.sight
        self._tell(node.see(look(pod), now))
        self._log(node, before)

    def _log(self, node: Node, before: Sight) -> None:
        if (node.sight.state, node.sight.words) != (before.state, before.words):
            logger.info("%s: %s %s", node.name, node.sight.state, node.sight.words)

    def _gone(self, node: Node) -> None:
        del self._nodes[node.name]
        self._tell(node.end(node.sight.exit_code, node.sight.words or "its pod is gone"))

    async def _tend(self) -> None:
        """Give up on pods that never get to run, and see that what is to go goes."""
        while True:
            await asyncio.sleep(_TEND_EVERY_S)
            for node in list(self._nodes.values()):
                now = time.monotonic()
                if why := node.overdue(self._settings.schedule_deadline_s, now):
                    node.doomed = True
                    self._tell(node.end(None, why))
                node.doomed |= node.kept_by_the_dead
                asked = node.asked_at is not None and now - node.asked_at < _DELETE_AGAIN_S
                if node.doomed and not node.sight.leaving and not asked:
                    await self._delete_or_say(node)

    async def _delete_or_say(self, node: Node) -> None:
        try:
            await self._delete(node)
        except ClusterError as error:
            logger.warning("%s", error)

    async def _delete(self, node: Node, grace_s: int | None = None) -> None:
        node.asked_at = time.monotonic()
        await self._cluster.delete(node.name, grace_s)

    def _tell(self, exits: Iterable[Exit]) -> None:
        for ended in exits:
            self._on_exit(ended)

    def _node_of(self, worker: str) -> Node | None:
        return self._nodes.get(worker.rpartition("-")[0])
