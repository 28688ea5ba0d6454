"""Open and close many sessions on a running system and see that nothing is left:
`python -m bench.churn --sessions 1000 --nats-url nats://127.0.0.1:4222`.

After a warm-up the tasks, subscriptions and open files of every process are exactly back, JetStream holds no
consumer, and resident memory may have grown by 5 MB at most. Every `--watch-every`-th session is watched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import httpx
from websockets.asyncio.client import connect

from bench.vitals import VitalsWatch
from shared.bus import Bus
from shared.contracts.fleet import Vitals

SETTLE_S = 20.0
MAX_GROWTH_MB = 5.0
_DEADLINE_S = 60.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--nats-url", default="nats://127.0.0.1:4222")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--watch-every", type=int, default=5)
    return parser.parse_args()


async def one(http: httpx.AsyncClient, url: str, number: int, watched: bool) -> None:
    answer = await http.post("/v1/sessions", json={"prompt": "a red circle", "seed": number})
    answer.raise_for_status()
    session = answer.json()["id"]
    if watched:
        stream = f"{url.replace('http', 'ws', 1)}/v1/sessions/{session}/stream?from=0"
        async with connect(stream, max_size=None, compression=None) as socket, asyncio.timeout(_DEADLINE_S):
            while not isinstance(await socket.recv(), bytes):
                pass
    (await http.delete(f"/v1/sessions/{session}")).raise_for_status()


async def many(args: argparse.Namespace, count: int) -> None:
    places = asyncio.Semaphore(args.at_once)
    async with httpx.AsyncClient(base_url=args.url, timeout=_DEADLINE_S) as http:

        async def placed(number: int) -> None:
            async with places:
                await one(http, args.url, number, number % args.watch_every == 0)

        await asyncio.gather(*(placed(number) for number in range(count)))


async def consumers(bus: Bus) -> int:
    streams = await bus.client.jetstream().streams_info()
    return sum(stream.state.consumer_count for stream in streams)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    bus = Bus(args.nats_url, "bench-churn", "bench")
    await bus.connect(5.0)
    watch = VitalsWatch(bus)
    await watch.start()
    await many(args, args.warm_up)
    await asyncio.sleep(SETTLE_S)
    before, consumers_before, started = watch.newest(), await consumers(bus), time.monotonic()
    await many(args, args.sessions)
    took_s = time.monotonic() - started
    await asyncio.sleep(SETTLE_S)
    after, consumers_after = watch.newest(), await consumers(bus)
    await bus.close()
    return {
        "sessions": args.sessions,
        "sessions_per_s": round(args.sessions / took_s, 1),
        "left_behind": left_behind(before, after) | {"consumers": consumers_after - consumers_before},
        "memory_growth_mb": {
            n: round((after[n].resident_bytes - v.resident_bytes) / 1e6, 1) for n, v in before.items()
        },
        "within_run_growth_mb": {n: round(mb, 1) for n, mb in watch.memory_slopes_mb(started).items()},
    }


def left_behind(before: dict[str, Vitals], after: dict[str, Vitals]) -> dict[str, dict[str, int]]:
    names = ("tasks", "subscriptions", "open_files")
    return {
        instance: {name: getattr(after[instance], name) - getattr(vitals, name) for name in names}
        for instance, vitals in before.items()
    }


def main() -> int:
    result = asyncio.run(run(arguments()))
    json.dump(result, sys.stdout, indent=1)
    print()
    grown = max(result["memory_growth_mb"].values())
    left = [
        count for held in result["left_behind"].values() if isinstance(held, dict) for count in held.values()
    ]
    return 1 if any(left) or grown > MAX_GROWTH_MB else 0


if __name__ == "__main__":
    sys.exit(main())
