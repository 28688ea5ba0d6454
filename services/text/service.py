"""Answering workers: from the cache, or through the encoder, each prompt once however many ask for it.

Event loop only; the encoder runs on the device thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field

from opentelemetry.context import Context, get_current

from services.text import metrics
from services.text.cache import Cache
from services.text.cleaning import clean
from services.text.encoder import Encoder
from shared import telemetry
from shared.bus import Meta, Refused
from shared.contracts.text import EncodeText, TextEncoded

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """A prompt in line. `deadline_at`: the latest of those who wait for it."""

    prompt: str
    deadline_at: float
    context: Context
    done: asyncio.Future[TextEncoded | None] | None = None


@dataclass(slots=True)
class Answering:
    """`max_waiting`: jobs at once; whoever comes then is refused and asks again."""

    encoder: Encoder
    device: Executor
    cache: Cache
    max_waiting: int
    _jobs: dict[str, _Job] = field(default_factory=dict)

    async def answer(self, asked: EncodeText, _meta: Meta) -> TextEncoded:
        prompt = clean(asked.prompt)
        known = self.cache.get(prompt)
        if known is not None:
            metrics.prompts.labels("cache").inc()
            return known
        try:
            async with asyncio.timeout(asked.deadline_at - time.time()):
                encoded = await asyncio.shield(self._join(prompt, asked.deadline_at))
        except TimeoutError:
            encoded = None
        if encoded is None:
            metrics.prompts.labels("late").inc()
            raise Refused("late", "the prompt was not encoded before its deadline", "ask again, wait longer")
        return encoded

    def _join(self, prompt: str, deadline_at: float) -> asyncio.Future[TextEncoded | None]:
        job = self._jobs.get(prompt)
        if job is not None and job.done is not None:
            metrics.prompts.labels("joined").inc()
            job.deadline_at = max(job.deadline_at, deadline_at)
            return job.done
        if len(self._jobs) >= self.max_waiting:
            metrics.prompts.labels("refused").inc()
            raise Refused("busy", f"{len(self._jobs)} prompts wait already", "ask again in a moment")
        metrics.prompts.labels("encoder").inc()
        job = self._jobs[prompt] = _Job(prompt, deadline_at, get_current())
        job.done = asyncio.get_running_loop().run_in_executor(self.device, self._encode, job)
        job.done.add_done_callback(lambda done: self._end(prompt, done))
        metrics.waiting.set(len(self._jobs))
        return job.done

    def _end(self, prompt: str, done: asyncio.Future[TextEncoded | None]) -> None:
        del self._jobs[prompt]
        metrics.waiting.set(len(self._jobs))
        if done.cancelled() or done.exception() is not None:
            return
        encoded = done.result()
        if encoded is not None:
            self.cache.put(prompt, encoded)
            metrics.cache_bytes.set(self.cache.size_bytes)

    def _encode(self, job: _Job) -> TextEncoded | None:
        """On the device thread. None: nobody waits for it any more."""
        if time.time() >= job.deadline_at:
            return None
        started = time.perf_counter()
        with telemetry.tracer.start_as_current_span("text.encode", context=job.context) as span:
            encoded = self.encoder.encode(job.prompt)
            span.set_attribute("words", encoded.words)
        duration_s = time.perf_counter() - started
        metrics.encode_seconds.observe(duration_s)
        said = {"words": encoded.words, "cut": encoded.cut, "encode_s": round(duration_s, 4)}
        logger.info("encoded a prompt", extra=said)
        return encoded
