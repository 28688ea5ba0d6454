"""`turboserve workers` and `turboserve drain`: the fleet, for those who run it."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from turboserve.client import Client
from turboserve.messages import DeviceInfo, Drained, WorkerInfo

_COLOURS = {"ready": "green", "starting": "yellow", "draining": "yellow"}
_GB = 1e9


async def workers(url: str | None, *, as_json: bool, console: Console) -> None:
    """Raises TurboserveError."""
    async with Client(url) as client:
        found = await client.workers()
    if as_json:
        _print_json(found, console)
    elif not found:
        console.print("no worker runs", highlight=False)
    else:
        console.print(_table(found))


async def drain(url: str | None, worker: str, *, force: bool, as_json: bool, console: Console) -> None:
    """Raises TurboserveError."""
    async with Client(url) as client:
        drained = await client.drain(worker, force=force)
    if as_json:
        _print_json(drained, console)
    else:
        console.print("\n".join(_told(drained)), highlight=False, markup=False)


def _print_json(found: object, console: Console) -> None:
    console.out(msgspec.json.format(msgspec.json.encode(found)).decode(), highlight=False)


def _table(found: list[WorkerInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("worker", no_wrap=True, min_width=max(len(worker.id) for worker in found))
    for title in ("state", "model"):
        table.add_column(title, no_wrap=True)
    for title in ("active", "copies"):
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("device", overflow="ellipsis", no_wrap=True)
    for title in ("memory", "busy"):
        table.add_column(title, no_wrap=True, justify="right")
    for worker in found:
        state = f"[{_COLOURS.get(worker.state, 'bright_black')}]{worker.state}[/]"
        active = f"{worker.active}/{worker.capacity}"
        table.add_row(
            worker.id,
            state,
            worker.model,
            active,
            str(worker.copies),
            *_device(worker.device or DeviceInfo()),
        )
    return table


def _device(device: DeviceInfo) -> tuple[str, str, str]:
    """Its name, its memory and how busy it is; "" for what it doesn't tell."""
    used, total = device.memory_used_bytes / _GB, device.memory_total_bytes / _GB
    memory = f"{used:.1f}/{total:.1f} GB" if total else ""
    busy = "" if device.utilisation_ratio is None else f"{device.utilisation_ratio:.0%}"
    return device.name, memory, busy


def _told(drained: Drained) -> list[str]:
    outcomes = (
        ("moved to another worker, where the picture begins anew", drained.moved),
        ("waiting until a worker has room", drained.queued),
        ("paused, to be placed when resumed", drained.released),
    )
    lines = [f"{drained.worker} takes nothing any more, and stops"]
    lines += [f"  {len(ids)} {what}: {' '.join(ids)}" for what, ids in outcomes if ids]
    if not any(ids for _, ids in outcomes):
        lines.append("  it had no sessions")
    phases = ", ".join(f"{phase.name} {phase.duration_s * 1000:.0f} ms" for phase in drained.phases)
    return [*lines, f"  {phases}"]
