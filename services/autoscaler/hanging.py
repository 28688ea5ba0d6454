"""Workers whose process runs but who say nothing: never since their start, or no longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from services.autoscaler.provider import Member


class Deadlines(msgspec.Struct, frozen=True):
    """`start_s`: to be heard for the first time. `silent_s`: from one report to the next."""

    start_s: float
    silent_s: float


def hanging(
    members: Sequence[Member], heard: Mapping[str, float], since: float, deadlines: Deadlines, now: float
) -> dict[str, str]:
    """Who hangs, with the reason. `heard`: when each was last heard, by somebody who listens `since` then."""
    found = {}
    for member in members:
        heard_at = heard.get(member.worker)
        if member.state != "alive" or member.runs_since is None:
            continue
        if heard_at is None and now - max(member.started_at, member.runs_since, since) > deadlines.start_s:
            found[member.worker] = f"not ready within {deadlines.start_s:g} s"
        elif heard_at is not None and now - heard_at > deadlines.silent_s:
            found[member.worker] = f"reported nothing for {deadlines.silent_s:g} s"
    return found
