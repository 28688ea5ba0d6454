"""`turboserve stream`: open a session, watch it, perhaps record it, and say how it went."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from turboserve.client import Client
from turboserve.errors import TurboserveError
from turboserve.messages import Chunk
from turboserve.recording import Recording
from turboserve.session import Session


class Then(msgspec.Struct, frozen=True):
    """A prompt that takes over at a chunk."""

    prompt: str
    chunk: int


class Request(msgspec.Struct, frozen=True):
    """What `turboserve stream` was told. `chunks` None: until Ctrl-C. `output` None: nothing is kept."""

    url: str | None
    prompt: str
    then: list[Then]
    chunks: int | None = None
    seed: int | None = None
    model: str = ""
    rung: str = ""
    priority: int = 0
    output: Path | None = None


class _Watched:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.opened_at = time.monotonic()
        self.first_at: float | None = None
        self.chunks = 0
        self.frames = 0
        self.video_s = 0.0

    def add(self, chunk: Chunk) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.chunks += 1
        self.frames += chunk.frames
        self.video_s += chunk.duration_s

    @property
    def speed(self) -> str:
        elapsed_s = time.monotonic() - self.opened_at
        return f"{self.frames / elapsed_s:.1f} frames/s, {self.video_s / elapsed_s:.2f} × real time"


async def stream(request: Request, console: Console) -> None:
    """Raises TurboserveError. Ctrl-C (a cancellation) closes the session and finishes the file."""
    _check_reached(request)
    seen = _Watched()
    async with contextlib.AsyncExitStack() as stack:
        recording = stack.enter_context(Recording(request.output)) if request.output else None
        client = await stack.enter_async_context(Client(request.url))
        session = await client.open(
            request.prompt,
            seed=request.seed,
            max_chunks=request.chunks,
            model=request.model,
            rung=request.rung,
            priority=request.priority,
        )
        await stack.enter_async_context(session)
        console.print(f"session {session.id}", highlight=False, soft_wrap=True)
        _warn(console, session.warnings)
        try:
            await _watch(session, request, seen, recording, console)
        finally:
            _summarise(session, request, seen, console)


def _check_reached(request: Request) -> None:
    """Raises TurboserveError for a change of prompt that would never be seen."""
    last = max((then.chunk for then in request.then), default=0)
    if request.chunks is not None and last >= request.chunks:
        raise TurboserveError(
            "bad_then",
            f"--then changes the prompt at chunk {last}, which --chunks {request.chunks} doesn't reach",
            f"chunks are numbered from 0: say --chunks {last + 1} or more",
        )


async def _watch(
    session: Session, request: Request, seen: _Watched, recording: Recording | None, console: Console
) -> None:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[speed]}"), console=console) as progress:
        bar = progress.add_task("waiting for the first chunk", total=request.chunks, speed="")
        coming = sorted(request.then, key=lambda then: then.chunk)
        session.hold(coming[0].chunk if coming else None)
        await _steer_before(session, 0, coming, console)
        async for chunk in session:
            seen.add(chunk)
            if recording:
                recording.write(chunk)
            progress.update(bar, advance=1, description=_shortened(chunk.prompt), speed=seen.speed)
            if request.chunks is not None and seen.chunks >= request.chunks:
                return
            await _steer_before(session, chunk.index + 1, coming, console)


async def _steer_before(session: Session, next_index: int, coming: list[Then], console: Console) -> None:
    """Change the prompt if chunk `next_index` is where it is due; until then that chunk is kept from being
    made.
    """
    while coming and coming[0].chunk <= next_index:
        then = coming.pop(0)
        steered = await session.steer(then.prompt)
        session.hold(coming[0].chunk if coming else None)
        console.print(
            f"chunk {steered.from_chunk}: {then.prompt}", highlight=False, markup=False, soft_wrap=True
        )
        _warn(console, steered.warnings)


def _warn(console: Console, warnings: list[str]) -> None:
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)


def _shortened(prompt: str, most_chars: int = 40) -> str:
    return prompt if len(prompt) <= most_chars else prompt[: most_chars - 1] + "…"


def _summarise(session: Session, request: Request, seen: _Watched, console: Console) -> None:
    if seen.first_at is None:
        console.print("no chunk came", highlight=False, soft_wrap=True)
        return
    first_s = seen.first_at - seen.opened_at
    made = f"{seen.chunks} chunks, {seen.video_s:.1f} s of video"
    console.print(f"{made}; first chunk after {first_s:.2f} s; {seen.speed}", highlight=False, soft_wrap=True)
    for start, to in session.cuts:
        console.print(
            f"[yellow]warning:[/] chunks {start} to {to - 1} were gone before they could be had",
            soft_wrap=True,
        )
    if request.output:
        console.print(f"written to {request.output}", highlight=False, markup=False, soft_wrap=True)


def parse_then(text: str) -> Then:
    """`a blue star@4` is the prompt "a blue star" from chunk 4 on. Raises TurboserveError."""
    prompt, at, chunk = text.rpartition("@")
    if not at or not prompt.strip() or not chunk.strip().isdecimal() or int(chunk) < 1:
        raise TurboserveError(
            "bad_then",
            f"--then {text!r} does not say from which chunk on",
            'write the prompt, @ and a chunk number from 1 on: --then "a blue star@4"',
        )
    return Then(prompt.strip(), int(chunk))
