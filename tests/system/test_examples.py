"""The examples run against the real system, as a reader would run them."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import av
import nats

from tests.fixtures.system import System
from turboserve import Client

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
STREAM = "TS_main_EVENTS"
WAIT_S = 60.0


@asynccontextmanager
async def running(example: str, *options: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / example), *options, stdout=PIPE, stderr=STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_with(process: Process, *words: str) -> str:
    """Reads what the example prints until a line has all `words`."""
    assert process.stdout is not None
    read: list[str] = []
    async with asyncio.timeout(WAIT_S):
        async for line in process.stdout:
            read.append(line.decode())
            if all(word in read[-1] for word in words):
                return read[-1]
    raise AssertionError(f"the example ended without saying {words}: {''.join(read)}")


async def test_a_session_is_driven_over_nats_alone(running_system: System, tmp_path: Path) -> None:
    video = tmp_path / "out.h264"
    options = ["--chunks", "6", "--then", "a blue ball@3", "--pause-at", "2", "-o", str(video)]
    async with running(
        "nats_client.py", "--nats-url", running_system.nats_url, "--prompt", "a red ball", *options
    ) as process:
        said = (await asyncio.wait_for(process.communicate(), WAIT_S))[0].decode()
    assert process.returncode == 0, said
    assert re.findall(r"^(pause|resume|close): (\w+)", said, re.MULTILINE)[0] == ("pause", "paused")
    assert said.endswith("close: closed\n")
    shown = re.findall(r"^chunk (\d+): \d+ bytes, (.+)$", said, re.MULTILINE)
    [steered] = map(int, re.findall(r"^steer: chunk (\d+)", said, re.MULTILINE))
    assert 3 <= steered <= 5
    assert shown == [(str(i), "a blue ball" if i >= steered else "a red ball") for i in range(6)]
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9 + 5 * 12


async def test_a_refusal_is_said_in_words(running_system: System, tmp_path: Path) -> None:
    options = ["--prompt", " ", "-o", str(tmp_path / "out.h264")]
    async with running("nats_client.py", "--nats-url", running_system.nats_url, *options) as process:
        await line_with(process, "open was refused", "prompt is empty")
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 1


async def play(system: System) -> str:
    """A session from opening to closing; its id."""
    async with Client(system.url) as client:
        session = await client.open("a red ball", max_chunks=1)
        async for _ in session:
            pass
        await session.close()
    return session.id


async def test_the_event_consumer_survives_a_restart(running_system: System, tmp_path: Path) -> None:
    """It loses nothing and repeats nothing, not even what it wrote and did not acknowledge."""
    journal = tmp_path / "events.jsonl"
    options = ["--nats-url", running_system.nats_url, "--output", str(journal), "--name", "restart-test"]
    first = await play(running_system)
    before = await events(running_system.nats_url)
    journal.write_text(json.dumps(before[0]) + '\n{"id": "cut o')

    async with running("lifecycle_consumer.py", *options) as consumer:
        await line_with(consumer, "session.closed", first)
        consumer.send_signal(signal.SIGKILL)
    second = await play(running_system)
    async with running("lifecycle_consumer.py", *options) as consumer:
        await line_with(consumer, "session.closed", second)

    written = [json.loads(line)["id"] for line in journal.read_text().splitlines()]
    published = [event["id"] for event in await events(running_system.nats_url)]
    assert written == published[: len(written)]
    assert len(set(written)) == len(written)


async def events(url: str) -> list[dict]:
    """All that the stream holds."""
    async with await nats.connect(url) as client:
        js = client.jetstream()
        state = (await js.stream_info(STREAM)).state
        messages = [await js.get_msg(STREAM, seq=n) for n in range(state.first_seq, state.last_seq + 1)]
    return [json.loads(message.data or b"") for message in messages]
