"""Where the cold tier's latents could lie: `python -m bench.cold_store`.

Each session overwrites the places of its window in turn, as a worker would, then reads them all back. Twice:
as quickly as the store takes them, and at the beat of a real chunk. Then what the chunk log's appends feel of
it on the same connection. The servers are started here, with their data below `--folder`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import aiosqlite
import asyncpg
import nats
from nats.aio.client import Client
from nats.js import JetStreamContext, api

from tests.fixtures import postgres
from tests.fixtures.nats_server import NatsServer

PLACES = 5  # one sink chunk and four recent ones
CHUNK_S = 0.75
SIZES = {"wan": 599_040, "sprites": 46_080}
_STREAM = "TS_bench_LATENTS"


class Store(Protocol):
    async def put(self, session: int, place: int, data: bytes) -> None: ...

    async def get(self, session: int, place: int) -> bytes: ...


class JetStream:
    """A stream with one message a subject, read by direct get."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=30)

    async def put(self, session: int, place: int, data: bytes) -> None:
        await self._js.publish(f"bench.{session}.{place}", data)

    async def get(self, session: int, place: int) -> bytes:
        message = await self._js.get_msg(_STREAM, subject=f"bench.{session}.{place}", direct=True)
        return message.data or b""


class Postgres:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def put(self, session: int, place: int, data: bytes) -> None:
        await self._pool.execute(_UPSERT.format("$1", "$2", "$3"), session, place, data)

    async def get(self, session: int, place: int) -> bytes:
        return bytes(await self._pool.fetchval(_SELECT.format("$1", "$2"), session, place))


class Sqlite:
    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def put(self, session: int, place: int, data: bytes) -> None:
        await self._database.execute(_UPSERT.format("?", "?", "?"), (session, place, data))
        await self._database.commit()

    async def get(self, session: int, place: int) -> bytes:
        async with self._database.execute(_SELECT.format("?", "?"), (session, place)) as cursor:
            row = await cursor.fetchone()
        assert row is not None
        return bytes(row[0])


_TABLE = "CREATE TABLE latents (session INT, place INT, data {}, PRIMARY KEY (session, place))"
_UPSERT = (
    "INSERT INTO latents VALUES ({}, {}, {}) ON CONFLICT (session, place) DO UPDATE SET data = excluded.data"
)
_SELECT = "SELECT data FROM latents WHERE session = {} AND place = {}"


class Files:
    """One file a place, replaced as a whole."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder, self._sync = folder, sync

    async def put(self, session: int, place: int, data: bytes) -> None:
        await asyncio.to_thread(self._write, self._folder / f"{session}.{place}", data)

    async def get(self, session: int, place: int) -> bytes:
        return await asyncio.to_thread((self._folder / f"{session}.{place}").read_bytes)

    def _write(self, path: Path, data: bytes) -> None:
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(data)
            if self._sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)


@contextlib.asynccontextmanager
async def jetstream(server: NatsServer, storage: api.StorageType) -> AsyncIterator[JetStream]:
    async with await nats.connect(server.url) as client:
        await client.jetstream().add_stream(
            name=_STREAM,
            subjects=["bench.>"],
            storage=storage,
            max_msgs_per_subject=1,
            max_bytes=768 * 1024 * 1024,
            discard=api.DiscardPolicy.OLD,
            allow_direct=True,
        )
        yield JetStream(client)
        await client.jetstream().delete_stream(_STREAM)


@contextlib.asynccontextmanager
async def postgres_table(server: postgres.PostgresServer, commit: str) -> AsyncIterator[Postgres]:
    address = server.url().replace("+asyncpg", "")
    async with asyncpg.create_pool(
        address, min_size=8, max_size=8, server_settings={"synchronous_commit": commit}
    ) as pool:
        await pool.execute("DROP TABLE IF EXISTS latents")
        await pool.execute(_TABLE.format("BYTEA"))
        await pool.execute("ALTER TABLE latents ALTER data SET STORAGE EXTERNAL")  # noise doesn't compress
        yield Postgres(pool)


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Sqlite]:
    async with aiosqlite.connect(path) as database:
        await database.execute("PRAGMA journal_mode=WAL")
        await database.execute("PRAGMA synchronous=NORMAL")
        await database.execute(_TABLE.format("BLOB"))
        yield Sqlite(database)


@contextlib.asynccontextmanager
async def files(folder: Path, *, sync: bool) -> AsyncIterator[Files]:
    await asyncio.to_thread(folder.mkdir)
    yield Files(folder, sync=sync)


class Figures(NamedTuple):
    """Seconds of single calls, and what the closed loop came to."""

    rate_mb: float
    flooded_s: list[float]
    paced_s: list[float]
    read_s: list[float]


async def measure(store: Store, sessions: int, size: int, seconds: float) -> Figures:
    data = [os.urandom(size) for _ in range(4)]
    flooded = await _put_all(store, data, sessions, seconds, beat_s=0.0)
    paced = await _put_all(store, data, sessions, seconds, beat_s=CHUNK_S)
    reads = []
    for turn in range(20):
        started = time.perf_counter()
        await asyncio.gather(*(store.get(turn % sessions, place) for place in range(PLACES)))
        reads.append(time.perf_counter() - started)
    return Figures(len(flooded) * size / seconds / 1e6, flooded, paced, reads)


async def beside(server: NatsServer, sessions: int, size: int, seconds: float) -> None:
    """Appends of 60 kB to a memory stream, each session's at its beat, without and with its latents."""
    async with (
        jetstream(server, api.StorageType.FILE) as latents,
        await nats.connect(server.url) as client,
    ):
        js = client.jetstream(timeout=30)
        await js.add_stream(name="TS_bench_CHUNKS", subjects=["chunks.>"], storage=api.StorageType.MEMORY)
        for name, cold in (("none", None), ("same connection", JetStream(client)), ("another", latents)):
            log = Beside(js, cold, bytes(size))
            await _put_all(log, [os.urandom(60_000)], sessions, seconds, beat_s=CHUNK_S)
            print(
                f"{sessions:>4} sessions, latents beside: {name:<16} append ms{_ms(log.appends_s)}",
                flush=True,
            )
        await js.delete_stream("TS_bench_CHUNKS")


class Beside:
    """A chunk's append, and its latents after it, as a worker does both."""

    def __init__(self, js: JetStreamContext, cold: JetStream | None, latents: bytes) -> None:
        self._js, self._cold, self._latents = js, cold, latents
        self.appends_s: list[float] = []

    async def put(self, session: int, place: int, data: bytes) -> None:
        started = time.perf_counter()
        await self._js.publish(f"chunks.{session}", data)
        self.appends_s.append(time.perf_counter() - started)
        if self._cold is not None:
            await self._cold.put(session, place, self._latents)

    async def get(self, session: int, place: int) -> bytes:
        raise NotImplementedError


async def _put_all(
    store: Store, data: list[bytes], sessions: int, seconds: float, beat_s: float
) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def one(session: int) -> None:
        next_at = time.perf_counter() + beat_s * session / sessions
        place = 0
        while (started := time.perf_counter()) < end or place < PLACES:
            if beat_s and next_at > started:
                await asyncio.sleep(next_at - started)
                started = time.perf_counter()
            next_at += beat_s
            await store.put(session, place % PLACES, data[place % len(data)])
            took.append(time.perf_counter() - started)
            place += 1

    await asyncio.gather(*(one(session) for session in range(sessions)))
    return took


def _ms(seconds: list[float]) -> str:
    p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
    return f"{1000 * statistics.median(seconds):8.1f}{1000 * p99:8.1f}"


def used_mb(folder: Path) -> float:
    """On disk, by blocks: what was deleted inside a file may still take room."""
    return sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file()) / 1e6


async def compare(arguments: argparse.Namespace, folder: Path, nats_server: NatsServer) -> None:
    database = postgres.PostgresServer(folder / "postgres", options=[])
    database.start()
    print(f"{'store':<22}{'record':<9}{'sess.':>5}{'MB/s':>8}{'flood p50':>10}{'p99':>6}", end="")
    print(f"{'paced p50':>10}{'p99':>6}{'window p50':>10}{'p99 ms':>7}{'disk MB':>9}{'held':>7}")
    try:
        for size in SIZES:
            for sessions in arguments.sessions:
                for number, name in enumerate(arguments.stores):
                    scratch = folder / f"{size}-{sessions}-{number}"
                    await row(name, scratch, (nats_server, database), size, sessions, arguments.seconds)
        for sessions in arguments.sessions:
            await beside(nats_server, sessions, SIZES["wan"], 4 * arguments.seconds)
    finally:
        database.stop()


STORES = (
    "JetStream, file",
    "JetStream, memory",
    "Postgres",
    "Postgres, async commit",
    "SQLite",
    "files",
    "files, fsync",
)


async def row(
    name: str,
    scratch: Path,
    servers: tuple[NatsServer, postgres.PostgresServer],
    size: str,
    sessions: int,
    seconds: float,
) -> None:
    nats_server, database = servers
    stores: dict[str, contextlib.AbstractAsyncContextManager[Store]] = {
        "JetStream, file": jetstream(nats_server, api.StorageType.FILE),
        "JetStream, memory": jetstream(nats_server, api.StorageType.MEMORY),
        "Postgres": postgres_table(database, "on"),
        "Postgres, async commit": postgres_table(database, "off"),
        "SQLite": sqlite(scratch.with_suffix(".sqlite")),
        "files": files(scratch, sync=False),
        "files, fsync": files(scratch, sync=True),
    }
    async with stores[name] as store:
        figures = await measure(store, sessions, SIZES[size], seconds)
        folders = {"J": scratch.parent / "nats", "P": scratch.parent / "postgres" / "data", "f": scratch}
        disk = used_mb(folders[name[0]]) if name[0] in folders else _sqlite_mb(scratch)
    print(f"{name:<23}{size:<9}{sessions:>4}{figures.rate_mb:>8.0f}", end="")
    print(f"{_ms(figures.flooded_s)}{_ms(figures.paced_s)}{_ms(figures.read_s)}", end="")
    print(f"{disk:>9.0f}{sessions * PLACES * SIZES[size] / 1e6:>7.1f}", flush=True)


def _sqlite_mb(scratch: Path) -> float:
    return sum(f.stat().st_blocks * 512 for f in scratch.parent.glob(f"{scratch.name}.sqlite*")) / 1e6


@contextlib.contextmanager
def started_nats(folder: Path) -> Iterator[NatsServer]:
    (folder / "nats").mkdir()
    server = NatsServer(folder / "nats")
    server.start_on_any_port()
    try:
        yield server
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of two runs a row")
    parser.add_argument("--sessions", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--stores", nargs="*", default=STORES, help="none: only the appends beside")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgres").mkdir(mode=0o777)
        (folder / "postgres").chmod(0o777)
        with started_nats(folder) as server:
            asyncio.run(compare(arguments, folder, server))


if __name__ == "__main__":
    main()
