"""The encode threads: frames that left the device become media, while the next step already runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from services.worker import encode, metrics
from services.worker.copies import Copy
from services.worker.making import Made, Pictured
from services.worker.orders import Order
from shared.contracts.stream import ChunkTimings

MAX_FRAMES_WAITING = 8  # chunks decoded but not encoded; beyond, the device waits
ENCODE_LIMIT_S = 20.0  # for that; an encoder takes a fraction of a second
_MOST_AT_ONCE, _MOST_THREADS = 4, 8


class EncoderHangs(RuntimeError):
    """The worker is of no use to any of its sessions: it ends, and they go on elsewhere."""


def cores() -> int:
    """That this process may use, as far as the system says; a container's share of them it doesn't."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(cores: int) -> int:
    """Of one chunk's encoder. Beyond eight a picture's slices get too low to gain anything."""
    return min(_MOST_THREADS, max(1, cores // 2))


@dataclass(slots=True)
class Encoding:
    """The engine's, which alone calls it. On an encode thread it calls `deliver`, each session's chunks in
    order, or `fail` with the chunk's order and why; and `took` with the seconds from the beginning of a
    chunk's decode to its media.
    """

    fps: float
    settings: encode.EncodeSettings
    deliver: Callable[[Made], None]
    fail: Callable[[Order, Exception], None]
    took: Callable[[float], None] = lambda _: None
    _room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_FRAMES_WAITING))
    _threads: ThreadPoolExecutor = field(init=False)
    _last: dict[Copy, Future[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_once = min(_MOST_AT_ONCE, max(1, cores() // self.settings.threads))
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="encode")

    def put(self, chunk: Pictured) -> None:
        """Its frames may still be on their way from the device, which goes on. Raises `EncoderHangs`."""
        if not self._room.acquire(timeout=ENCODE_LIMIT_S):
            raise EncoderHangs(f"no chunk was encoded for {ENCODE_LIMIT_S:.0f} s, and as many wait as may")
        self._last = {copy: future for copy, future in self._last.items() if not future.done()}
        before = self._last.get(chunk.order.copy)
        self._last[chunk.order.copy] = self._threads.submit(self._encode, chunk, before)

    def finish(self) -> None:
        """What is in hand; then no more."""
        self._threads.shutdown()

    def abandon(self) -> None:
        """It hangs: what is in hand is lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _encode(self, chunk: Pictured, before: Future[None] | None) -> None:
        """`before`: the same session's last one, begun earlier and so never waiting for this one's thread."""
        try:
            made = self._made(chunk)
            if before is not None and wait([before], ENCODE_LIMIT_S).not_done:
                raise encode.EncodeError(f"the chunk before wasn't encoded within {ENCODE_LIMIT_S:.0f} s")
            self.deliver(made)
        except Exception as error:  # noqa: BLE001 one chunk fails, not the thread
            chunk.span.end()
            self.fail(chunk.order, error)
        finally:
            self._room.release()

    def _made(self, chunk: Pictured) -> Made:
        arrived = chunk.frames()
        started = time.perf_counter()
        media = encode.encode(arrived, self.fps, self.settings)
        now = time.perf_counter()
        self.took(now - chunk.since)
        order, wait_s = chunk.order, chunk.order.due_to_start_s
        timings = _timings(wait_s, chunk.forward_s, started - chunk.since, now - started)
        return Made(order, media, timings, chunk.span, chunk.latents)


def _timings(wait_s: float, forward_s: float, decode_s: float, encode_s: float) -> ChunkTimings:
    observed = {"wait": wait_s, "forward": forward_s, "decode": decode_s, "encode": encode_s}
    for stage, seconds in observed.items():
        metrics.stage_seconds.labels(stage).observe(seconds)
    return ChunkTimings(wait_s, forward_s, decode_s, encode_s, made_at=time.time())
