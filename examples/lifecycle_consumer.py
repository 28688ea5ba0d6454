# /// script
# dependencies = ["nats-py"]
# ///
"""Follow the public lifecycle events: each is printed, and appended to a file once, whatever dies in between.

    python examples/lifecycle_consumer.py --nats-url nats://127.0.0.1:4222 --output events.jsonl

JetStream remembers under `--name` what was acknowledged. An event is acknowledged once its line is in
the file, and one at a time: after a crash between the two, only the last line's event can come again, and is
known by its id.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import nats
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

CELL = "main"
STREAM_WAIT_S = 60


class Journal:
    """One event a line. A line cut off by a crash is not there: its event was not acknowledged either."""

    def __init__(self, path: Path) -> None:
        path.touch()
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        os.truncate(path, end)
        lines = whole[:end].splitlines()
        self.last_id = json.loads(lines[-1])["id"] if lines else None
        self._file = path.open("ab", buffering=0)

    def add(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event).encode() + b"\n")
        os.fsync(self._file.fileno())
        self.last_id = event["id"]


async def subscribe(js: JetStreamContext, name: str) -> JetStreamContext.PullSubscription:
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=1, ack_wait=10)
    for _ in range(STREAM_WAIT_S):
        try:
            return await js.pull_subscribe(
                f"ts.{CELL}.events.>", durable=name, stream=f"TS_{CELL}_EVENTS", config=config
            )
        except NotFoundError:  # made by placement with its first event
            await asyncio.sleep(1)
    raise SystemExit(f"there is no stream TS_{CELL}_EVENTS: does placement run?")


async def main(options: argparse.Namespace) -> None:
    journal = Journal(options.output)
    async with await nats.connect(options.nats_url, max_reconnect_attempts=-1) as client:
        events = await subscribe(client.jetstream(), options.name)
        while True:
            try:
                [message] = await events.fetch(1, timeout=5)
            except NatsTimeoutError:
                continue
            event = json.loads(message.data)
            if event["id"] != journal.last_id:
                journal.add(event)
                session = event["data"]["session"]
                print(event["time"], event["type"], event["subject"], session["status"], session["phase"])
                sys.stdout.flush()
            await message.ack_sync()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Follow turboserve's lifecycle events.")
    parser.add_argument("--nats-url", default=os.environ.get("TURBOSERVE_NATS_URL", "nats://127.0.0.1:4222"))
    parser.add_argument("--name", default="lifecycle-example", help="of the durable consumer")
    parser.add_argument("--output", type=Path, default=Path("events.jsonl"))
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
