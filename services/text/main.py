"""`turboserve text`: one text encoder, asked by the workers of every model that reads its embeddings."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from services.text.settings import TextSettings
from shared.contracts.subjects import ENCODE_TEXT
from shared.process import Process, StartupError, run
from shared.settings import SettingsError, load

if TYPE_CHECKING:
    from services.text.encoder import Encoder

EXIT_USAGE = 2
QUEUE = "text"
_THREAD = "device"
_ENVELOPE_BYTES = 4096


def main(given: Mapping[str, object]) -> int:
    """Run until told to stop. `given`: settings from the command line. Returns the exit code."""
    try:
        settings = load(TextSettings, "text", os.environ, given)
    except SettingsError as error:
        print(f"turboserve text: {error}", file=sys.stderr)
        return EXIT_USAGE
    exit_code = run("text", settings, _body)
    if any(thread.name.startswith(_THREAD) for thread in threading.enumerate()):
        os._exit(exit_code)  # a load of 11 GB or a prompt under way can't be interrupted
    return exit_code


async def _body(process: Process[TextSettings]) -> None:
    settings = process.settings
    await process.say("starting", f"loading {settings.encoder}")
    device = ThreadPoolExecutor(1, thread_name_prefix=_THREAD)
    try:
        loading = asyncio.get_running_loop().run_in_executor(device, _load, settings)
        encoder = await process.unless_stopped(loading)
        if encoder is not None:
            await _serve(process, encoder, device)
    finally:
        device.shutdown(wait=False, cancel_futures=True)


def _load(settings: TextSettings) -> Encoder:
    """On the device thread. Raises `StartupError`."""
    try:
        import torch

        from services.text import encoder, files
    except ImportError as error:
        raise StartupError(f"{error}; install turboserve[text]") from None
    torch.set_num_threads(settings.threads)
    try:
        return encoder.load(settings.weights_path, settings.device, settings.dtype)
    except files.EncoderError as error:
        raise StartupError(str(error)) from None


async def _serve(process: Process[TextSettings], encoder: Encoder, device: ThreadPoolExecutor) -> None:
    from services.text.cache import Cache
    from services.text.service import Answering

    settings, bus = process.settings, process.bus
    check_payload(encoder.answer_bytes, bus.client.max_payload)
    answering = Answering(encoder, device, Cache(settings.cache_mib << 20), settings.max_waiting)
    subscription = await bus.serve(
        ENCODE_TEXT, answering.answer, queue=QUEUE, cell=settings.cell, encoder=settings.encoder
    )
    await bus.flush()
    await process.ready(
        f"{settings.encoder} on {encoder.device}, {encoder.size_bytes / 1e9:.1f} GB in {settings.dtype}"
    )
    await process.stopping.wait()
    await subscription.unsubscribe()


def check_payload(answer_bytes: int, max_payload_bytes: int) -> None:
    """Raises `StartupError`."""
    needed_bytes = answer_bytes + _ENVELOPE_BYTES
    if max_payload_bytes < needed_bytes:
        raise StartupError(
            f"the NATS server takes messages of {max_payload_bytes:,} bytes, an embedding is up to"
            f" {needed_bytes:,}: set its max_payload to 8388608 (deploy/nats.conf)"
        )
