"""The placement process: its database, its lease, then its service."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from services.placement.service import serve
from services.placement.settings import PlacementSettings
from shared.leadership import lead
from shared.process import Process, StartupError, run
from shared.settings import SettingsError, load
from shared.store.engine import StoreError, open_store

EXIT_USAGE = 2


def main(given: Mapping[str, object]) -> int:
    """Run until told to stop. `given`: settings from the command line. Returns the exit code."""
    try:
        settings = load(PlacementSettings, "placement", os.environ, given)
    except SettingsError as error:
        print(f"turboserve placement: {error}", file=sys.stderr)
        return EXIT_USAGE
    return run("placement", settings, _body)


async def _body(process: Process[PlacementSettings]) -> None:
    settings = process.settings
    await process.say("starting", "connecting to the database")
    try:
        store = await open_store(settings.database_url, settings.database_wait_s)
    except StoreError as error:
        raise StartupError(f"{error} (setting TURBOSERVE_PLACEMENT_DATABASE_URL)") from None
    try:
        async with lead(process, store, settings.lease_ttl_s) as leadership:
            if leadership is not None:
                await serve(process, store, leadership)
    finally:
        await process.cancel_tasks()
        await store.close()
