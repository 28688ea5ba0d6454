"""What the commands have in common that call a running turboserve."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from shared.settings import ServiceSettings, load

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_URL = "http://localhost:8080"

url_option = click.option(
    "--url", envvar="TURBOSERVE_URL", metavar="URL", help=f"The gateway (or TURBOSERVE_URL). [{_DEFAULT_URL}]"
)

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


def run_client(command: Callable[[Console], Coroutine[Any, Any, int | None]]) -> None:
    """`command` answers with the exit code, None: 0."""
    import asyncio
    import os

    from rich.console import Console

    # The variables of services may be set beside TURBOSERVE_URL; a misspelt one may not.
    load(ServiceSettings, "client", os.environ, {})
    if code := asyncio.run(command(Console())):
        sys.exit(code)
