"""What an operation did, phase by phase, as the commands for operators print it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from turboserve.messages import Phase

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def print_json(found: object, console: Console) -> None:
    console.out(msgspec.json.format(msgspec.json.encode(found)).decode(), highlight=False)


def print_told(lines: Sequence[str], phases: Sequence[Phase], console: Console, note: str = "") -> None:
    """Sentences, then a row for each phase and one for all of them, which `note` stands beside."""
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    if phases:
        console.print(_table(phases, note))


def duration(duration_s: float) -> str:
    """For people: "12.3 ms", "1.20 s"."""
    return f"{duration_s:.2f} s" if duration_s >= 1 else f"{duration_s * 1000:.1f} ms"


def size(count_bytes: int) -> str:
    for unit_bytes, unit in _UNITS:
        if count_bytes >= unit_bytes:
            return f"{count_bytes / unit_bytes:.2f} {unit}"
    return f"{count_bytes} bytes"


def _table(phases: Sequence[Phase], note: str) -> Table:
    """Phases follow each other; those with a space in their names are details within them."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 0, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(style="bright_black")
    follow = [phase for phase in phases if " " not in phase.name]
    for phase in follow:
        table.add_row(phase.name, duration(phase.duration_s), "")
    table.add_row("in all", duration(sum(phase.duration_s for phase in follow)), note, style="bold")
    details = [phase for phase in phases if " " in phase.name]
    for number, phase in enumerate(details):
        title = "" if number else "of that, as the workers tell"
        table.add_row(f"  {phase.name}", duration(phase.duration_s), title, style="bright_black")
    return table
