"""Operators' word on the fleet: checked, kept in the store, and in force from then on."""

from __future__ import annotations

import asyncio
import logging

from services.autoscaler.controls import Controls, changed, restored, said
from shared.bus import Refused
from shared.contracts.fleet import SetFleet
from shared.leadership import Leadership
from shared.store import controls, leases
from shared.store.engine import Store, StoreAway
from shared.store.leases import LeaseLost

logger = logging.getLogger(__name__)


class Desk:
    """`controls`: what holds now. `open` first."""

    def __init__(self, store: Store, leadership: Leadership, cell: str, settings: Controls) -> None:
        self.controls = settings
        self._store = store
        self._leadership = leadership
        self._cell = cell
        self._setting = asyncio.Lock()

    async def open(self) -> None:
        """What was set before holds again. Raises StoreAway."""
        async with self._store.begin() as transaction:
            kept = await controls.read(transaction, self._cell)
        self.controls = restored(self.controls, kept)

    async def set(self, asked: SetFleet) -> None:
        """One after the other, as each is checked against the one before. Raises Refused."""
        async with self._setting:
            await self._set(asked)

    async def _set(self, asked: SetFleet) -> None:
        try:
            after = changed(self.controls, asked)
        except ValueError as error:
            raise Refused("invalid_field", str(error), "nothing was changed") from None
        try:
            async with self._store.begin() as transaction:
                await leases.check(transaction, self._leadership.lease)
                await controls.write(transaction, self._cell, asked)
        except StoreAway as error:
            raise Refused("store_unavailable", str(error), "nothing may have changed; try again") from None
        except LeaseLost:
            raise Refused("busy", "another autoscaler leads now", "try again in a moment") from None
        if after != self.controls:
            logger.info("operators set %s", said(after))
        self.controls = after
