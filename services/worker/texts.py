"""Has the prompts of copies encoded by whoever serves the model's text encoder, while their sessions go on.

Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from services.worker.copies import FAILED, Copy, prompt_of
from services.worker.roster import Roster
from services.worker.runner import Runner
from shared.bus import Bus, BusAway, NoAnswer, Refused
from shared.contracts.fleet import Own
from shared.contracts.subjects import ENCODE_TEXT
from shared.contracts.text import EncodeText, TextEncoded

logger = logging.getLogger(__name__)

_ASK_S = 20.0  # a CPU takes seconds for a prompt, and others may be in line
_PAUSES_S = (0.1, 0.25, 0.5, 1.0, 2.0)
_GIVE_UP_S = 600.0
_LONG_S = 1.0


@dataclass(frozen=True, slots=True)
class _Asking:
    own: Own
    task: asyncio.Task[None]


@dataclass(slots=True)
class Texts:
    """One task for each copy whose newest prompt isn't encoded, ended by `forget` at the latest. A model that
    reads prompts itself needs none.
    """

    bus: Bus
    cell: str
    roster: Roster
    runner: Runner
    _asking: dict[Copy, _Asking] = field(default_factory=dict)

    async def want(self, copy: Copy, wait_s: float) -> None:
        """Have the copy's newest prompt encoded and shown. Whoever brings it waits for that, but no longer
        than `wait_s`: it goes on without. A copy that came by a move with its state shows it already.
        """
        own, asking = self.roster.lacks_text(copy), self._asking.get(copy)
        if own is None or copy.gone:
            return
        if asking is not None:
            if prompt_of(asking.own.inputs) == prompt_of(own.inputs):
                return
            asking.task.cancel()
        task = asyncio.create_task(self._encode(copy, own), name=f"text {copy.session}")
        self._asking[copy] = _Asking(own, task)
        task.add_done_callback(lambda done: self._end(copy, done))
        if not copy.up_to_date:
            await asyncio.wait([task], timeout=max(0.0, wait_s))

    def forget(self, copy: Copy) -> None:
        asking = self._asking.pop(copy, None)
        if asking is not None:
            asking.task.cancel()

    def _end(self, copy: Copy, task: asyncio.Task[None]) -> None:
        asking = self._asking.get(copy)
        if asking is not None and asking.task is task:
            del self._asking[copy]

    async def _encode(self, copy: Copy, own: Own) -> None:
        try:
            since = time.monotonic()
            async with asyncio.timeout(_GIVE_UP_S):
                encoded = await self._ask(own)
            if (took_s := time.monotonic() - since) > _LONG_S:
                logger.info("a prompt was encoded after %.1f s", took_s, extra={"session": copy.session})
            self.roster.show(copy, own, self.runner.learn(prompt_of(own.inputs), encoded))
        except TimeoutError:
            self._give_up(copy, f"nobody encoded the prompt within {_GIVE_UP_S:g} s")
        except ValueError as error:
            self._give_up(copy, str(error))
        except Exception as error:
            logger.exception("learning a prompt failed", extra={"session": copy.session})
            self._give_up(copy, f"{type(error).__name__}: {error}"[:500])

    async def _ask(self, own: Own) -> TextEncoded:
        """Until somebody answers; the caller bounds it."""
        prompt, encoder = prompt_of(own.inputs), self.runner.spec.text_encoder
        address = ENCODE_TEXT.at(cell=self.cell, encoder=encoder)
        tries = 0
        while True:
            try:
                return await self.bus.request(address, EncodeText(prompt, time.time() + _ASK_S), _ASK_S)
            except (NoAnswer, BusAway, Refused) as error:
                logger.log(
                    logging.DEBUG if tries else logging.WARNING,
                    "a prompt waits for the text encoder %s: %s",
                    encoder,
                    error,
                    extra={"session": own.session, "inputs_version": own.inputs_version},
                )
            await asyncio.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
            tries += 1

    def _give_up(self, copy: Copy, why: str) -> None:
        """A session that shows something goes on with it."""
        logger.error("a prompt will not show: %s", why, extra={"session": copy.session})
        if copy.shows is None:
            self.roster.end(copy, FAILED, why)
