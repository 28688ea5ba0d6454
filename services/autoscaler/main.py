"""Entry of the autoscaler's process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from services.autoscaler.loop import Loop
from services.autoscaler.plan import Limits
from services.autoscaler.providers.local import LocalProvider
from services.autoscaler.settings import AutoscalerSettings
from shared.process import Process, StartupError, run
from shared.settings import load

_PROCESSORS_PER_WORKER = 2  # one for the model, one for the encoder and everything else


def main(given: Mapping[str, object]) -> int:
    """Run until told to stop; returns the exit code. Raises SettingsError."""
    return run("autoscaler", load(AutoscalerSettings, "autoscaler", os.environ, given), _body)


async def _body(process: Process[AutoscalerSettings]) -> None:
    settings = process.settings
    await Loop(process, _limits(settings), lambda on_exit: LocalProvider(settings, on_exit)).run()


def _limits(settings: AutoscalerSettings) -> Limits:
    maximum = settings.maximum
    if maximum is None:
        maximum = max(settings.minimum, (os.cpu_count() or 1) // _PROCESSORS_PER_WORKER, 1)
    if maximum < settings.minimum:
        raise StartupError(
            f"maximum={maximum} is less than minimum={settings.minimum}: raise the one or lower the other"
        )
    return Limits(
        minimum=settings.minimum,
        maximum=maximum,
        hold_s=settings.hold_s,
        start_deadline_s=settings.start_deadline_s,
        silent_s=settings.silent_s,
        restart_limit=settings.restart_limit,
        restart_window_s=settings.restart_window_s,
    )
