"""`turboserve fleet`: how many workers there should be and why, and what operators set for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from turboserve.client import Client
from turboserve.messages import FleetInfo, FleetMember
from turboserve.phases import print_json


async def fleet(url: str | None, asked: Mapping[str, Any], *, as_json: bool, console: Console) -> None:
    """`asked`: arguments of `Client.set_fleet`, None where nothing was asked. Raises TurboserveError."""
    changes = any(value is not None for value in asked.values())
    async with Client(url) as client:
        found = await (client.set_fleet(**asked) if changes else client.fleet())
    if as_json:
        print_json(found, console)
        return
    for line in _lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(found: FleetInfo) -> list[str]:
    wanted = "1 worker" if found.desired == 1 else f"{found.desired} workers"
    spare = f", {found.spare} spare" if found.spare else ""
    lines = [
        f"{wanted} wanted, at least {found.minimum}, at most {found.maximum}{spare}; policy {found.policy}",
        f"  {found.reason}",
    ]
    if found.frozen:
        lines.append("  frozen: the size stays as it is until `turboserve fleet --unfreeze`")
    if found.dry_run:
        lines.append("  dry run: nothing is done until `turboserve fleet --live`")
    if found.would:
        lines.append(f"  it would {found.would}")
    if found.decision:
        lines.append(f"  turboserve explain {found.decision}")
    return lines + [_member(member, member.worker in found.draining) for member in found.workers]


def _member(member: FleetMember, draining: bool) -> str:
    state = "draining" if draining and member.state == "running" else member.state
    restarts = f"  after {member.restarts} that ended" if member.restarts else ""
    return f"  {member.worker}  {state}{restarts}{f'  {member.detail}' if member.detail else ''}"
