"""`turboserve workers` and `turboserve drain`: the fleet, for those who run it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from turboserve.client import Client
from turboserve.messages import DeviceInfo, Drained, WorkerInfo
from turboserve.phases import print_json, print_told

_COLOURS = {"ready": "green", "starting": "yellow", "draining": "yellow"}
_GB = 1e9
_WIDEST = 500


async def workers(url: str | None, *, as_json: bool, console: Console) -> None:
    """Raises TurboserveError."""
    async with Client(url) as client:
        found = await client.workers()
    if as_json:
        print_json(found, console)
    elif not found:
        console.print("no worker runs", highlight=False)
    else:
        table = _table(found)
        # Whole columns, as wide as they are: a narrow terminal breaks the lines, a program gets all of them.
        needed = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
        console.width = max(console.width, needed)
        console.print(table)


async def drain(url: str | None, worker: str, *, force: bool, as_json: bool, console: Console) -> None:
    """Raises TurboserveError."""
    async with Client(url) as client:
        drained = await client.drain(worker, force=force)
    if as_json:
        print_json(drained, console)
    else:
        print_told(_told(drained), drained.phases, console)


def _table(found: list[WorkerInfo]) -> Table:
    """The worker first; what a device may tell is a column only if one does."""
    devices = [_told_by(worker.device or DeviceInfo()) for worker in found]
    told = [title for title in devices[0] if any(device[title] for device in devices)]
    table = Table(box=None, pad_edge=False)
    for title in ("worker", "state", "model"):
        table.add_column(title, no_wrap=True)
    for title in ("active", "paused", "suspended"):
        table.add_column(title, no_wrap=True, justify="right")
    for title in told:
        table.add_column(title, no_wrap=True, justify="left" if title == "device" else "right")
    for worker, device in zip(found, devices, strict=True):
        table.add_row(
            worker.id,
            f"[{_COLOURS.get(worker.state, 'bright_black')}]{worker.state}[/]",
            worker.model,
            f"{worker.active}/{worker.capacity}",
            str(worker.paused),
            str(worker.copies_by_tier.host),
            *(device[title] for title in told),
        )
    return table


def _told_by(device: DeviceInfo) -> dict[str, str]:
    """By title; "" for what it doesn't tell."""
    used, total = device.memory_used_bytes / _GB, device.memory_total_bytes / _GB
    return {
        "device": device.name,
        "memory": f"{used:.1f}/{total:.1f} GB" if total else "",
        "busy": "" if device.utilisation_ratio is None else f"{device.utilisation_ratio:.0%}",
        "power": "" if device.power_w is None else f"{device.power_w:.0f} W",
        "temp": "" if device.temperature_c is None else f"{device.temperature_c:.0f} °C",
    }


def _told(drained: Drained) -> list[str]:
    outcomes = (
        ("moved to another worker with its state", drained.moved),
        ("placed on another worker, where the picture is rebuilt or begins anew", drained.placed),
        ("waiting until a worker has room", drained.queued),
        ("paused, to be placed when resumed", drained.released),
    )
    lines = [f"{drained.worker} takes nothing any more, and stops"]
    lines += [f"  {len(ids)} {what}: {' '.join(ids)}" for what, ids in outcomes if ids]
    if not any(ids for _, ids in outcomes):
        lines.append("  it had no sessions")
    return lines
