"""The encode thread: frames that left the device become media, while the next step already runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.worker import encode, metrics
from services.worker.making import Made, Making
from services.worker.orders import Order
from shared.contracts.stream import ChunkTimings

MAX_FRAMES_WAITING = 4  # chunks decoded but not encoded; beyond, the device waits
ENCODE_LIMIT_S = 20.0  # for that; an encoder takes a fraction of a second


class EncoderHangs(RuntimeError):
    """The worker is of no use to any of its sessions: it ends, and they go on elsewhere."""


@dataclass(slots=True)
class Encoding:
    """The engine's, which alone calls it. On the encode thread it calls `deliver`, or `fail` with the chunk's
    order and why.
    """

    fps: float
    settings: encode.EncodeSettings
    deliver: Callable[[Made], None]
    fail: Callable[[Order, Exception], None]
    _room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_FRAMES_WAITING))
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="encode")
    )

    def put(self, chunk: Making, frames: Callable[[], encode.Frames], decoding_since: float) -> None:
        """`frames` may still be on their way from the device, which goes on. Raises `EncoderHangs`."""
        if not self._room.acquire(timeout=ENCODE_LIMIT_S):
            raise EncoderHangs(f"no chunk was encoded for {ENCODE_LIMIT_S:.0f} s, and as many wait as may")
        self._thread.submit(self._encode, chunk, frames, decoding_since)

    def finish(self) -> None:
        """What is in hand; then no more."""
        self._thread.shutdown()

    def abandon(self) -> None:
        """It hangs: what is in hand is lost."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encode(self, chunk: Making, frames: Callable[[], encode.Frames], decoding_since: float) -> None:
        try:
            arrived = frames()
            started = time.perf_counter()
            chunk.decode_s = started - decoding_since
            media = encode.encode(arrived, self.fps, self.settings)
            encode_s = time.perf_counter() - started
            self.deliver(Made(chunk.order, media, _timings(chunk, encode_s), chunk.span, chunk.latents))
        except Exception as error:  # noqa: BLE001 one chunk fails, not the thread
            chunk.span.end()
            self.fail(chunk.order, error)
        finally:
            self._room.release()


def _timings(chunk: Making, encode_s: float) -> ChunkTimings:
    observed = {
        "wait": chunk.order.due_to_start_s,
        "forward": chunk.forward_s,
        "decode": chunk.decode_s,
        "encode": encode_s,
    }
    for stage, seconds in observed.items():
        metrics.stage_seconds.labels(stage).observe(seconds)
    return ChunkTimings(
        chunk.order.due_to_start_s, chunk.forward_s, chunk.decode_s, encode_s, made_at=time.time()
    )
