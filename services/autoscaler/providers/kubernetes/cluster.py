"""The few calls to Kubernetes' API that the provider makes, each with a deadline, a bounded number of tries,
and an error in words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import httpx2
import msgspec
from lightkube import ApiError, AsyncClient
from lightkube.core.exceptions import ConfigError
from lightkube.resources.core_v1 import Pod

from services.autoscaler.providers.kubernetes.manifest import labels
from shared.process import StartupError

T = TypeVar("T")

_ANSWER_S = 5.0
_PAUSES_S = (0.2, 1.0)  # between three tries: at most 17 s for a call
_PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})
_GONE, _NOT_FOUND = 410, 404


class ClusterError(OSError):
    """Kubernetes could not be asked, or refused; the message says what and why. `code`: its answer's HTTP
    status, 0: none came.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code

    @property
    def too_old(self) -> bool:
        """What was to be watched from is no longer remembered there: list again."""
        return self.code == _GONE


class Cluster:
    """The pods of one cell in one namespace. `namespace` "": that of the service account or kubeconfig."""

    def __init__(self, client: AsyncClient, cell: str) -> None:
        self._client = client
        self._labels = labels(cell)

    async def create(self, pod: Pod, *, dry_run: bool = False) -> None:
        """That it exists already counts as done: names are chosen at random, so an earlier try made it."""

        async def create() -> None:
            try:
                await self._client.create(pod, dry_run=dry_run)
            except ApiError as error:
                if error.status.reason != "AlreadyExists":
                    raise

        await _tried("create a pod", create)

    async def delete(self, name: str, grace_s: int | None = None) -> None:
        """Ask for it; a pod that is gone already counts as done. `grace_s` None: the pod's own."""

        async def delete() -> None:
            try:
                await self._client.delete(Pod, name, grace_period=grace_s)
            except ApiError as error:
                if error.status.code != _NOT_FOUND:
                    raise

        await _tried(f"delete pod {name}", delete)

    async def pods(self) -> tuple[list[Pod], str]:
        """All there are, and the version from which to watch."""

        async def pods() -> tuple[list[Pod], str]:
            listing = self._client.list(Pod, labels=dict(self._labels))
            return [pod async for pod in listing], listing.resourceVersion

        return await _tried("list the pods", pods)

    async def changes(self, version: str) -> AsyncIterator[tuple[str, Pod]]:
        """("ADDED" | "MODIFIED" | "DELETED", pod), until the caller has enough. Raises ClusterError when the
        connection ends or `version` is too old.
        """
        events = self._client.watch(Pod, labels=dict(self._labels), resource_version=version)
        async with contextlib.aclosing(events) as following:  # type: ignore[type-var]
            try:
                async for kind, pod in following:
                    yield kind, pod
            except _FAILURES as error:
                raise _in_words("watch the pods", error) from error

    async def close(self) -> None:
        await self._client.close()


def connect(namespace: str, cell: str) -> Cluster:
    """By the pod's service account, or else $KUBECONFIG. Raises StartupError."""
    try:
        client = AsyncClient(namespace=namespace or None, timeout=httpx2.Timeout(_ANSWER_S))
    except (ConfigError, OSError, msgspec.MsgspecError, AssertionError) as error:
        raise StartupError(
            f"provider=kubernetes finds no cluster: {error}; run it in a pod with a service account, "
            "or set KUBECONFIG"
        ) from None
    return Cluster(client, cell)


_FAILURES = (httpx2.HTTPError, TimeoutError, msgspec.MsgspecError, KeyError)
"""KeyError: the client's, when an answer has no Content-Type."""


async def _tried(what: str, call: Callable[[], Awaitable[T]]) -> T:
    for pause_s in (*_PAUSES_S, None):
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await call()
        except _FAILURES as error:
            problem = _in_words(what, error)
            if pause_s is None or (problem.code and problem.code not in _PASSING):
                raise problem from error
        await asyncio.sleep(pause_s)
    raise AssertionError("the last try returned or raised")


def _in_words(what: str, error: BaseException) -> ClusterError:
    if isinstance(error, ApiError):
        return ClusterError(f"can't {what}: {error.status.message}", error.status.code or 0)
    if isinstance(error, httpx2.HTTPStatusError):
        return ClusterError(
            f"can't {what}: HTTP status {error.response.status_code}", error.response.status_code
        )
    words = str(error) or type(error).__name__
    return ClusterError(f"can't {what}: Kubernetes' API does not answer ({words})")
