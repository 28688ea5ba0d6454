"""`turboserve simulate`."""

from __future__ import annotations

import click


@click.command(short_help="What a policy makes of a trace, without a fleet.")
def simulate() -> None:
    """Simulate."""
