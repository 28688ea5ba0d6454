"""`turboserve sessions`: what runs, and what has run."""

from __future__ import annotations

import time

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turboserve.client import Client
from turboserve.messages import SessionInfo

_COLOURS = {"active": "green", "queued": "yellow", "paused": "yellow", "failed": "red"}


async def sessions(url: str | None, limit: int, *, live: bool, as_json: bool, console: Console) -> None:
    """Raises TurboserveError."""
    async with Client(url) as client:
        found = await client.sessions(limit=limit, live=live)
    if as_json:
        console.out(msgspec.json.format(msgspec.json.encode(found)).decode(), highlight=False)
    elif not found:
        console.print("no session runs" if live else "there has been no session yet", highlight=False)
        if live:
            console.print("--all shows the ended ones too", highlight=False)
    else:
        console.print(_table(found))


def _table(found: list[SessionInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    # What someone copies or compares is never cut short; a prompt may be.
    widest_worker = max(6, *(len(info.worker) for info in found))
    least = {"session": len(found[0].id), "status": 6, "worker": widest_worker, "chunks": 6, "age": 6}
    for title, least_chars in least.items():
        right = title in ("chunks", "age")
        table.add_column(title, no_wrap=True, min_width=least_chars, justify="right" if right else "left")
    table.add_column("prompt", overflow="ellipsis", no_wrap=True)
    for info in found:
        colour = _COLOURS.get(info.status, "bright_black")
        what = Text(" ".join(info.prompt.split()), overflow="ellipsis", no_wrap=True)
        if info.status == "failed":
            what.append(f" ({info.reason})", "red")
        status = f"[{colour}]{info.status}[/]"
        table.add_row(info.id, status, info.worker, str(info.next_chunk), _age(info), what)
    return table


def _age(info: SessionInfo) -> str:
    if info.created_at is None:
        return ""
    age_s = max(0, round(time.time() - info.created_at.timestamp()))
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if age_s >= unit_s:
            return f"{age_s // unit_s} {unit}"
    return f"{age_s} s"
