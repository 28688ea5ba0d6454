"""What `make` installs and what the fixtures start are what the other tests believe them to be."""

import importlib.metadata
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import asyncpg
import nats
import pytest
from nats.js.errors import NotFoundError
from packaging.requirements import Requirement
from playwright.async_api import Browser
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.fixtures.nats_server import NatsServer
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.process import NotReadyError, Program


def test_what_is_installed_agrees_with_itself() -> None:
    unmet = []
    for distribution in importlib.metadata.distributions():
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                installed = _installed_version(requirement.name)
                if installed is None or not requirement.specifier.contains(installed, prereleases=True):
                    unmet.append(f"{distribution.name} wants {requirement}, found {installed}")
    assert unmet == []


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def test_the_client_library_pulls_in_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "nats", "sqlalchemy", "litestar", "uvicorn"}
    program = f"import sys, turboserve; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == []


async def test_jetstream_keeps_a_file_stream_over_a_crash(fresh_nats: NatsServer) -> None:
    await _publish(fresh_nats.url, b"kept")
    fresh_nats.kill()
    assert not fresh_nats.running
    fresh_nats.start()
    async with await nats.connect(fresh_nats.url) as client:
        assert (await client.jetstream().get_last_msg("things", "things.a")).data == b"kept"


async def _publish(url: str, payload: bytes) -> None:
    async with await nats.connect(url) as client:
        await client.jetstream().add_stream(name="things", subjects=["things.*"])
        await client.jetstream().publish("things.a", payload)


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_finds_jetstream_empty(nats_url: str, turn: int) -> None:
    async with await nats.connect(nats_url) as client:
        with pytest.raises(NotFoundError):
            await client.jetstream().stream_info("things")
    await _publish(nats_url, b"left behind")


async def test_postgres_is_17_and_keeps_its_data_over_a_crash(postgres_server: PostgresServer) -> None:
    address = {
        "host": "127.0.0.1",
        "port": postgres_server.port,
        "user": "turboserve",
        "database": "postgres",
    }
    connection = await asyncpg.connect(**address)
    assert connection.get_server_version().major == 17
    await connection.execute("CREATE TABLE kept (n int)")
    postgres_server.stop()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await connection.execute("SELECT 1")
    postgres_server.start()
    connection = await asyncpg.connect(**address)
    await connection.execute("DROP TABLE kept")
    await connection.close()


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_finds_its_database_empty(database_url: str, turn: int) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE things (n integer)"))
    await engine.dispose()


async def test_chromium_runs_scripts(browser: Browser) -> None:
    page = await browser.new_page()
    assert await page.evaluate("6 * 7") == 42
    await page.close()


def test_a_program_that_ends_early_tells_its_last_words(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path / "log")
    with pytest.raises(NotReadyError, match="no such luck"):
        program.start(lambda: False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_no_program_outlives_a_killed_parent(tmp_path: Path) -> None:
    parent = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from tests.fixtures.process import Program
        program = Program(["sleep", "60"], Path({str(tmp_path / "log")!r}))
        program.start(lambda: True)
        print(program.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert _ends(int(done.stdout), within_s=10.0)


def _ends(pid: int, within_s: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(process, "rb"):
        return bool(select.select([process], [], [], within_s)[0])
