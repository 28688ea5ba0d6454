"""Following the pods of a cell: listed, then watched, and listed again whenever that is safer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from lightkube.resources.core_v1 import Pod

from services.autoscaler.providers.kubernetes.cluster import Cluster, ClusterError

logger = logging.getLogger(__name__)

_LIST_EVERY_S = 60.0  # a connection may hang without a word: what is seen is never older
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_MOST_FAILURES = 10


class Watch:
    """`on_list` is given all pods there are, and since when on the steady clock that has been so at least;
    `on_change` one pod, and what happened: "ADDED", "MODIFIED" or "DELETED".
    """

    def __init__(
        self,
        cluster: Cluster,
        on_list: Callable[[Sequence[Pod], float], None],
        on_change: Callable[[str, Pod], None],
    ) -> None:
        self._cluster = cluster
        self._on_list = on_list
        self._on_change = on_change
        self._version = ""
        self._failures = 0

    async def list(self) -> None:
        """To be called before `follow`. Raises ClusterError."""
        asked_at = time.monotonic()
        pods, self._version = await self._cluster.pods()
        self._on_list(pods, asked_at)

    async def follow(self) -> None:
        """For ever: while Kubernetes is away, ever more rarely."""
        while True:
            try:
                async with asyncio.timeout(_LIST_EVERY_S):
                    async for kind, pod in self._cluster.changes(self._version):
                        self._failures = 0
                        self._on_change(kind, pod)
            except TimeoutError:
                self._failures = 0
            except ClusterError as error:
                self._failed(error)
            await self._list_again()

    async def _list_again(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s())
            try:
                await self.list()
            except ClusterError as error:
                self._failed(error)
            else:
                return

    def _failed(self, error: ClusterError) -> None:
        """The first of a row is worth a line."""
        if error.too_old:
            return
        logger.log(logging.DEBUG if self._failures else logging.WARNING, "%s", error)
        self._failures = min(self._failures + 1, _MOST_FAILURES)

    def _pause_s(self) -> float:
        if not self._failures:
            return 0.0
        return min(_FIRST_PAUSE_S * 2.0 ** (self._failures - 1), _LONGEST_PAUSE_S)
