"""One instance of a service leads a cell: it holds the lease, renews it, and stops when it has lost it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from shared.process import Process, S, StartupError
from shared.store import leases
from shared.store.engine import Store, StoreAway
from shared.store.leases import Lease, LeaseState

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class Leadership:
    """The lease while it is held. Every save checks it too (`leases.check`), so that a former leader saves
    nothing.
    """

    def __init__(self, store: Store, lease: Lease, ttl_s: float) -> None:
        self.lease = lease
        self._store = store
        self._ttl_s = ttl_s
        self._confirmed_at = time.monotonic()

    @property
    def certain(self) -> bool:
        """Whether nobody else can have taken over yet."""
        return time.monotonic() - self._confirmed_at < self._ttl_s

    async def keep(self) -> None:
        """Renew until the lease is lost, which raises `LeaseLost`. While the database is away nobody can take
        it.
        """
        away = False
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            asked_at = time.monotonic()
            try:
                async with self._store.begin() as transaction:
                    await leases.renew(transaction, self.lease, self._ttl_s)
                self._confirmed_at, away = asked_at, False
            except StoreAway as error:
                logger.log(
                    logging.DEBUG if away else logging.WARNING, "the lease can't be renewed: %s", error
                )
                away = True

    async def release(self) -> None:
        try:
            async with self._store.begin() as transaction:
                await leases.release(transaction, self.lease)
        except StoreAway as error:
            logger.warning("the lease was not released and will expire: %s", error)


@contextlib.asynccontextmanager
async def lead(process: Process[S], store: Store, ttl_s: float) -> AsyncIterator[Leadership | None]:
    """Become the leader of the service's cell, waiting for as long as another one leads; None if told to stop
    meanwhile. `ttl_s`: how soon another one takes over from a leader that died.

    On SQLite a second instance is a mistake, because it would never see the first one's machine:
    `StartupError`.
    """
    lease = await _wait_for(process, store, ttl_s)
    if lease is None:
        yield None
        return
    leadership = Leadership(store, lease, ttl_s)
    process.spawn("keep the lease", leadership.keep())
    try:
        yield leadership
    finally:
        await process.cancel_tasks()
        await leadership.release()


async def _wait_for(process: Process[S], store: Store, ttl_s: float) -> Lease | None:
    seen: LeaseState | None = None
    while not process.stopping.is_set():
        lease, state = await _try(process, store, ttl_s)
        if lease is not None:
            return lease
        if state is not None and seen is not None and store.single_host and _renewed(seen, state):
            raise StartupError(
                f"another {process.service} ({state.holder}) already uses {store.where}; "
                "stop it, or give each its own database"
            )
        if state is not None and state.holder != (seen.holder if seen else None):
            await process.say("waiting", f"{state.holder} leads")
        seen = state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY_S):
                await process.stopping.wait()
    return None


def _renewed(before: LeaseState, after: LeaseState) -> bool:
    """Its holder is alive."""
    same = (before.holder, before.token) == (after.holder, after.token)
    return same and after.expires_at > before.expires_at


async def _try(process: Process[S], store: Store, ttl_s: float) -> tuple[Lease | None, LeaseState | None]:
    name = f"{process.service}-{process.settings.cell}"
    try:
        async with store.begin() as transaction:
            lease = await leases.acquire(transaction, name, process.instance, ttl_s)
            return lease, await leases.look(transaction, name)
    except StoreAway as error:
        logger.warning("the lease could not be read: %s", error)
        return None, None
