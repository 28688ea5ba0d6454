"""`turboserve move`, `suspend`, `resume` and `rung`: one session, in the hands of those who run the fleet.

Each returns the command's exit code: 0 if what was asked for is so now.
"""

from __future__ import annotations

from rich.console import Console

from turboserve.client import Client
from turboserve.messages import Moved, Stowed
from turboserve.phases import duration, print_json, print_told, size


async def move(url: str | None, session: str, to: str, *, as_json: bool, console: Console) -> int:
    """Raises TurboserveError."""
    async with Client(url) as client:
        moved = await client.move(session, to)
    if as_json:
        print_json(moved, console)
    else:
        sent = f"{size(moved.sent_bytes)} sent" if moved.sent_bytes else ""
        print_told([_moved(moved)], moved.phases, console, sent)
    return int(moved.outcome not in ("moved", "placed"))


async def suspend(url: str | None, session: str, *, as_json: bool, console: Console) -> int:
    """Raises TurboserveError."""
    async with Client(url) as client:
        stowed = await client.suspend(session)
    _show(stowed, _suspended(stowed), as_json=as_json, console=console)
    return int(stowed.tier == "device")


async def resume(url: str | None, session: str, *, as_json: bool, console: Console) -> int:
    """Raises TurboserveError."""
    async with Client(url) as client:
        stowed = await client.restore(session)
    _show(stowed, _restored(stowed), as_json=as_json, console=console)
    return int(stowed.status != "active")


async def rung(url: str | None, session: str, name: str, *, console: Console) -> int:
    """Raises TurboserveError."""
    async with Client(url) as client:
        changed = await client.watch(session)
        before = changed.info.rung
        await changed.set_rung(name)
    words = f"{session}: the next chunk that has not started is made at rung {_rung(name)}"
    print_told([f"{words}, before it was {_rung(before)}"], [], console)
    return 0


def _show(stowed: Stowed, words: str, *, as_json: bool, console: Console) -> None:
    if as_json:
        print_json(stowed, console)
    else:
        copied = f"{size(stowed.bytes)} copied" if stowed.bytes else ""
        print_told([words], stowed.phases, console, copied)


def _moved(moved: Moved) -> str:
    why = f": {moved.why}" if moved.why else ""
    match moved.outcome:
        case "moved":
            pause = f"; for {duration(moved.pause_s)} nobody could go on with it" if moved.pause_s else ""
            return f"{moved.session} moved from {moved.source} to {moved.target} with its state{pause}"
        case "placed":
            origin = f", before it was on {moved.source}" if moved.source else ""
            return f"{moved.session} is placed on {moved.target} without a state{origin}{why}"
        case "stayed":
            return f"{moved.session} stays on {moved.source or 'no worker'}{why}"
        case "lost":
            return f"{moved.session} lost its state: elsewhere its picture is rebuilt or begins anew{why}"
    return f"{moved.session}: {moved.outcome}{why}"


def _suspended(stowed: Stowed) -> str:
    where = f" of {stowed.worker}" if stowed.worker else ""
    match stowed.tier:
        case "device":
            return f"{stowed.session} is {stowed.status}, but its state is still in the device memory{where}"
        case "none":
            return f"{stowed.session} is {stowed.status}; no worker has a state of it to keep"
    return f"{stowed.session} is suspended: its state is in the {stowed.tier} memory{where}"


def _restored(stowed: Stowed) -> str:
    if stowed.status == "queued":
        return f"{stowed.session} waits in the queue until a worker has room; then it goes on"
    if stowed.status != "active":
        return f"{stowed.session} is {stowed.status}: it was not resumed"
    match stowed.tier:
        case "device":
            return f"{stowed.session} goes on at {stowed.worker} as it was"
        case "none":
            return f"{stowed.session} goes on at {stowed.worker}: its picture is rebuilt or begins anew"
    return f"{stowed.session} goes on at {stowed.worker} as soon as its state is back from the {stowed.tier}"


def _rung(name: str) -> str:
    return name or "the model's default"
