"""What an operation did, phase by phase, as the commands for operators print it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console

from turboserve.messages import Phase

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def print_json(found: object, console: Console) -> None:
    console.out(msgspec.json.format(msgspec.json.encode(found)).decode(), highlight=False)


def print_told(lines: Sequence[str], phases: Sequence[Phase], console: Console, note: str = "") -> None:
    """Sentences, then a line for each phase and one for all of them, which `note` stands beside."""
    told = [*lines, *_rows(phases, note)] if phases else lines
    console.print("\n".join(told), highlight=False, markup=False, soft_wrap=True)


def duration(duration_s: float) -> str:
    """For people: "12.3 ms", "1.20 s"."""
    return f"{duration_s:.2f} s" if duration_s >= 1 else f"{duration_s * 1000:.1f} ms"


def size(count_bytes: int) -> str:
    for unit_bytes, unit in _UNITS:
        if count_bytes >= unit_bytes:
            return f"{count_bytes / unit_bytes:.2f} {unit}"
    return f"{count_bytes} bytes"


def _rows(phases: Sequence[Phase], note: str) -> list[str]:
    """Phases follow each other; those with a space in their names are details within them."""
    follow = [phase for phase in phases if " " not in phase.name]
    details = [phase for phase in phases if " " in phase.name]
    whole = Phase("in all", sum(phase.duration_s for phase in follow))
    width = 2 + max(len(phase.name) for phase in (*phases, whole))
    rows = [*(_row(phase, width) for phase in follow), f"{_row(whole, width)}   {note}".rstrip()]
    if details:
        rows += ["  within that, as the workers tell it", *(_row(phase, width, "    ") for phase in details)]
    return rows


def _row(phase: Phase, width: int, indent: str = "  ") -> str:
    return f"{indent}{phase.name}".ljust(width + 2) + f"{duration(phase.duration_s):>10}"
