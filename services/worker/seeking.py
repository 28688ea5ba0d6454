"""What a copy's lost state can be rebuilt from: looked up in the cold tier, beside everything else."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from services.worker.cold import Cold
from services.worker.copies import Copy
from services.worker.desk import Desk
from services.worker.making import Made

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Seeker:
    """One copy's, for its line. Without a cold tier it does nothing. Event loop only."""

    desk: Desk
    copy: Copy
    _seeking: asyncio.Task[None] | None = None

    def seek(self) -> None:
        """If the copy's state is lost: find what it can be rebuilt from, once its chunks are in the log."""
        copy = self.copy
        if self.desk.cold is not None and copy.seeking and copy.next_append == copy.next_chunk:
            self.cancel()
            self._seeking = asyncio.create_task(self._seek(self.desk.cold), name=f"seek {copy.session}")

    async def _seek(self, cold: Cold) -> None:
        copy, generation, next_chunk = self.copy, self.copy.generation, self.copy.next_chunk
        past = await cold.past(copy.own, next_chunk)
        if not past:
            text = "nothing to rebuild chunk %d from, beginning anew"
            logger.warning(text, next_chunk, extra={"session": copy.session})
        self.desk.roster.found(copy, generation, past)

    def cancel(self) -> None:
        if self._seeking is not None:
            self._seeking.cancel()

    def keep(self, made: Made) -> None:
        """For later seekers. What the state was rebuilt from goes there again: its indices may have moved."""
        cold, newest = self.desk.cold, made.latents
        if cold is None or newest is None:
            return
        for chunk in (*made.order.past, newest):
            if chunk.origin == newest.origin:
                cold.keep(self.copy.own, chunk)
