# /// script
# dependencies = ["msgspec", "nats-py"]
# ///
"""Drive a session over NATS alone: open, watch, steer, pause, resume, close. `ffplay FILE` shows the video.

    python examples/nats_client.py --prompt "a red circle" --then "a blue square@5" --chunks 10 -o out.h264

docs/nats.md explains each step, docs/asyncapi.yaml each message.
"""

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

import nats
from msgspec import msgpack
from nats.aio.client import Client

CELL, TENANT = "main", "default"
CHUNK_WAIT_S, LOOK_EVERY_S = 60.0, 0.1


async def ask(client: Client, what: str, **fields: object) -> dict[str, Any]:
    reply = await client.request(f"ts.{CELL}.session.{TENANT}.{what}", msgpack.encode(fields), timeout=5)
    answer = msgpack.decode(reply.data)
    if "Ts-Error" in (reply.headers or {}):
        raise SystemExit(f"{what} was refused: {answer['message']}; {answer['hint']}")
    return answer


async def report(client: Client, session: str, granted_through: int, viewers: int = 1) -> None:
    word = {"gateway": "nats-client", "viewers": viewers, "granted_through": granted_through}
    await client.publish(f"ts.{CELL}.viewers.{TENANT}.{session}", msgpack.encode(word))


async def next_chunk(client: Client, session: str, after: int, done: int) -> tuple[int, dict[str, Any]]:
    """The session's first chunk behind stream sequence `after`. Chunks are made only while somebody watches,
    at most two ahead of what the viewer says it is done with: so say it, and say it again every second.
    """
    wanted = {"seq": after + 1, "next_by_subj": f"ts.{CELL}.chunks.{TENANT}.{session}"}
    for look in range(int(CHUNK_WAIT_S / LOOK_EVERY_S)):
        if look % int(1 / LOOK_EVERY_S) == 0:
            await report(client, session, granted_through=done)
        log = f"$JS.API.DIRECT.GET.TS_{CELL}_CHUNKS"
        entry = await client.request(log, json.dumps(wanted).encode(), timeout=5)
        if sequence := (entry.headers or {}).get("Nats-Sequence"):
            return int(sequence), msgpack.decode(entry.data)
        await asyncio.sleep(LOOK_EVERY_S)
    raise SystemExit(f"no chunk within {CHUNK_WAIT_S:g} s")


def change(then: str) -> tuple[int, str]:
    prompt, _, chunk = then.rpartition("@")
    return int(chunk), prompt


async def main(options: argparse.Namespace) -> None:
    prompts = dict(options.then)
    async with await nats.connect(options.nats_url) as client:
        opened = await ask(client, "open", inputs=[{"kind": "prompt", "text": options.prompt}])
        session, sequence = opened["id"], 0
        with options.output.open("wb") as video:
            for index in range(options.chunks):
                if index in prompts:
                    inputs = [{"kind": "prompt", "text": prompts[index]}]
                    steered = await ask(client, "steer", session=session, inputs=inputs)
                    print(f"steer: chunk {steered['from_chunk']} will show it")
                for what in ("pause", "resume") if index == options.pause_at else ():
                    print(f"{what}: {(await ask(client, what, session=session))['status']}")
                sequence, chunk = await next_chunk(client, session, sequence, done=index - 1)
                video.write(chunk["media"])
                print(f"chunk {chunk['index']}: {len(chunk['media'])} bytes, {chunk['inputs'][0]['text']}")
        await report(client, session, granted_through=chunk["index"], viewers=0)
        print(f"close: {(await ask(client, 'close', session=session))['status']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Drive a session over NATS alone.")
    parser.add_argument("--nats-url", default=os.environ.get("TURBOSERVE_NATS_URL", "nats://127.0.0.1:4222"))
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--then", action="append", default=[], type=change, metavar="PROMPT@CHUNK")
    parser.add_argument("--pause-at", type=int, metavar="CHUNK", help="pause and resume before this chunk")
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asyncio.run(main(parser.parse_args()))
