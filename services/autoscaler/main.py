"""Entry of the autoscaler's process: its database, its lease, then its loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from services.autoscaler.controls import Controls
from services.autoscaler.desk import Desk
from services.autoscaler.hanging import Deadlines
from services.autoscaler.loop import Loop
from services.autoscaler.outlook import Terms
from services.autoscaler.plan import Limits
from services.autoscaler.provider import OnExit, Provider
from services.autoscaler.providers.local import LocalProvider
from services.autoscaler.settings import AutoscalerSettings
from services.autoscaler.supply import Patience
from shared.leadership import Leadership, lead
from shared.process import Process, StartupError, run
from shared.settings import load
from shared.store.engine import Store, StoreAway, StoreError, open_store

_PROCESSORS_PER_WORKER = 2  # one for the model, one for the encoder and everything else
_LEAST_MAXIMUM = 2  # of a fleet that is to grow and shrink


def main(given: Mapping[str, object]) -> int:
    """Run until told to stop; returns the exit code. Raises SettingsError."""
    return run("autoscaler", load(AutoscalerSettings, "autoscaler", os.environ, given), _body)


async def _body(process: Process[AutoscalerSettings]) -> None:
    settings = process.settings
    if settings.provider == "kubernetes":
        await process.say("starting", "asking Kubernetes about the pod template")
        await _kubernetes().check(settings)
    await process.say("starting", "connecting to the database")
    try:
        store = await open_store(settings.database_url, settings.database_wait_s)
    except StoreError as error:
        raise StartupError(f"{error} (setting TURBOSERVE_AUTOSCALER_DATABASE_URL)") from None
    try:
        async with lead(process, store, settings.lease_ttl_s) as leadership:
            if leadership is not None:
                await _run(process, store, leadership)
    finally:
        await process.cancel_tasks()
        await store.close()


async def _run(process: Process[AutoscalerSettings], store: Store, leadership: Leadership) -> None:
    settings = process.settings
    desk = Desk(store, leadership, settings.cell, _controls(settings))
    try:
        await desk.open()
    except StoreAway as error:
        raise StartupError(f"what operators set can't be read: {error}") from None
    loop = Loop(
        process,
        _limits(settings),
        settings.chosen_policy(),
        desk,
        lambda on_exit: _provider(settings, on_exit),
        lambda: leadership.certain,
    )
    await loop.run()


def _provider(settings: AutoscalerSettings, on_exit: OnExit) -> Provider:
    """Raises StartupError."""
    if settings.provider == "kubernetes":
        return _kubernetes().make(settings, on_exit)
    return LocalProvider(settings, on_exit)


def _kubernetes() -> ModuleType:
    """Imported where it is used: its client is an extra of its own."""
    try:
        return import_module("services.autoscaler.providers.kubernetes.provider")
    except ModuleNotFoundError as error:
        raise StartupError(
            f"provider=kubernetes needs the package {error.name}: pip install 'turboserve[kubernetes]'"
        ) from None


def _controls(settings: AutoscalerSettings) -> Controls:
    maximum = settings.maximum
    if maximum is None:
        processors = os.cpu_count() or 1
        maximum = max(settings.minimum, processors // _PROCESSORS_PER_WORKER, _LEAST_MAXIMUM)
    return Controls(settings.minimum, maximum, settings.spare)


def _limits(settings: AutoscalerSettings) -> Limits:
    return Limits(
        Terms(boot_s=settings.boot_s, model=settings.model),
        Deadlines(settings.start_deadline_s, settings.silent_s),
        Patience(settings.restart_limit, settings.restart_window_s),
    )
